"""The `depthline` command, for people without a pipeline: map photos, look at the installation, the models, webhooks.

A thin layer: what it does is in the packages below. Errors that have a cure are one line and exit status 2.
"""

from __future__ import annotations

import asyncio
import functools
import glob
import hashlib
import platform
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer
from pydantic import ValidationError
from rich.console import Console, Group
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from depth_core import display, profiles, settings
from depth_core.catalog import MODELS, Family, ModelSpec
from depth_core.contract import DepthParameters, NormalizationMode
from depth_core.engine import local
from depth_core.engine.stages import Item, Plan
from depth_core.errors import ConfigurationError, DepthlineError, ErrorKind, ImageError, ModelAbsentError, ModelUnavailableError
from depth_core.inference import checkpoints, copies
from depth_core.inference.checkpoints import Presence
from depth_core.ingest import decode
from depth_core.output import encode, records
from depth_core.requests import webhooks
from depth_core.requests.artworks import ArtworkStore, open_store
from depth_core.storage import Store

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Depth maps of many images.")
console = Console(highlight=False)
errors = Console(highlight=False, stderr=True)


@app.callback()
def _commands() -> None:
    """Depth maps of many images."""


class _Flat(Store):
    """Writes `photo/depth.png` as `photo.depth.png`, so that one folder holds everything."""

    def path(self, key: str) -> str:
        folder, _, name = key.rpartition("/")
        return super().path(f"{folder}.{name}" if folder else name)

    def write(self, key: str, data: bytes | memoryview, *, content_type: str | None = None) -> None:
        folder, _, name = key.rpartition("/")
        if name == encode.PNG:  # written first: what an earlier run left under this name goes, the mark of completion before all
            earlier = encode.read_sidecar(self, folder) or {}
            for old in (encode.SIDECAR, encode.TIFF, encode.PNG16):
                if old in earlier.get("files", ()):
                    self.delete(f"{folder}/{old}")
        super().write(key, data, content_type=content_type)


@app.command("map")
def map_photos(
    photos: Annotated[list[str], typer.Argument(help="Photos, folders or patterns such as 'shots/**/*.jpg'.")],
    out: Annotated[str, typer.Option(help="Folder, or s3://bucket/prefix, for NAME.depth.png and NAME.depth.json.")],
    model: Annotated[
        str, typer.Option(help="tiny, or FAMILY/NAME such as v2/small, v3/mono_large; `depthline models` lists them.")
    ] = "tiny",
    resolution: Annotated[
        int | None,
        typer.Option(
            help="Short side that the network sees: 256 to 2048, a multiple of 64. More detail, more time.",
            show_default="256 for tiny, else 1024",
        ),
    ] = None,
    invert: Annotated[bool, typer.Option("--invert", help="Lighter is farther.")] = False,
    mode: Annotated[NormalizationMode, typer.Option(help="V2-Style and Raw need a V3 model.")] = NormalizationMode.STANDARD,
    network_size: Annotated[bool, typer.Option("--network-size", help="Keep the network's size, not the photo's.")] = False,
    depth16: Annotated[bool, typer.Option("--16-bit", help="Also write NAME.depth16.png, without banding.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.", show_default="as DEPTH_DEVICE says")] = "",
    force: Annotated[bool, typer.Option("--force", help="Make again what is there already.")] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace depth maps of other photos, instead of writing NAME-2.depth.png beside them."),
    ] = False,
) -> None:
    """Makes the depth map of every photo. Exit status: 0 all made, 1 some failed, 2 nothing could be done."""
    with _clear_errors():
        spec = _model(model)
        now = settings.load(**({"device": device} if device else {}))
        parameters = _parameters(
            model=spec.name,
            use_version_3=spec.family is Family.V3,
            resolution_lower_limit=resolution if resolution is not None else (256 if spec.family is Family.TINY else 1024),
            invert_depth=invert,
            normalization_mode=mode,
            use_post_resize=not network_size,
        )
        files = _photos(photos)
        store = _Flat(out, now.store_options if "://" in out else None)
        store.check_writable()
        checkpoint = checkpoints.resolve(spec, now)
        items = list(_items(files, store, overwrite=overwrite))
        todo = [item for item in items if force or not _is_there(store, item, parameters, checkpoint.revision, depth16)]
        if len(todo) < len(items):
            console.print(f"{len(items) - len(todo):,} of {len(items):,} are there already (--force makes them again)")
        failures = _run(todo, checkpoint, Plan(parameters, depth16=depth16), store, now) if todo else 0
    made = len(todo) - failures
    console.print(
        f"{made:,} depth map{'' if made == 1 else 's'} made in {escape(out)}"
        + (f", [red]{failures:,} failed[/red]" if failures else ""),
        soft_wrap=True,
    )
    raise typer.Exit(1 if failures else 0)


def _run(todo: Sequence[Item], checkpoint: checkpoints.Checkpoint, plan: Plan, store: Store, now: settings.Settings) -> int:
    """Runs the engine with a progress bar, prints each failure; returns how many there were."""
    from depth_core.inference import predictor

    failures = 0
    device = predictor.choose_device(now)
    bar = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*bar, console=console, expand=True) as progress:
        task = progress.add_task(f"loading {checkpoint.spec.key}", total=len(todo), rate="")
        network = predictor.load(checkpoint, now)
        progress.update(task, description=f"{checkpoint.spec.key} on {device}")
        try:
            for item, outcome in local.run(todo, predictor=network, plan=plan, store=store, settings=now):
                if outcome.status == records.FAILED:
                    failures += 1
                    progress.console.print(
                        f"[red]{outcome.error_kind}[/red] {escape(item.source)}: {escape(outcome.error_message or '')}",
                        soft_wrap=True,
                    )
                speed = progress.tasks[0].speed
                progress.update(task, advance=1, rate=f"{speed:.1f} images/s" if speed else "")
        finally:
            network.close()
    return failures


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        kind = ErrorKind.FORBIDDEN if isinstance(error, PermissionError) else ErrorKind.NOT_FOUND
        raise ImageError(kind, f"cannot be read: {error.strerror or error}") from None


def _is_there(store: Store, item: Item, parameters: DepthParameters, revision: str, depth16: bool) -> bool:
    """Whether the same was made of the same photo, by this version, and all its files are still there."""
    sidecar = encode.read_sidecar(store, item.folder)
    return (
        sidecar is not None
        and sidecar.get("parameters") == parameters.as_api()
        and sidecar.get("checkpoint", {}).get("revision") == revision
        and (encode.PNG16 in sidecar.get("files", ())) == depth16
        and all(store.exists(f"{item.folder}/{name}") for name in sidecar["files"])
        and sidecar.get("sourceSha256") == _sha256(item)
    )


def _is_of_another(store: Store, item: Item) -> bool:
    """Whether what an earlier run left under the item's name was made of another photo."""
    sidecar = encode.read_sidecar(store, item.folder) or {}
    known = sidecar.get("sourceSha256")
    return known is not None and _sha256(item) not in (known, None)


def _sha256(item: Item) -> str | None:
    try:
        return hashlib.sha256(item.read()).hexdigest()
    except ImageError:
        return None  # the engine will say so


def _model(name: str) -> ModelSpec:
    for spec in MODELS:
        if spec.key == name:
            return spec
    raise ConfigurationError(f"no model {name!r}; there are: {', '.join(spec.key for spec in MODELS)}")


# The contract's fields by the name they have here.
_OPTIONS = {"resolution_lower_limit": "--resolution", "normalization_mode": "--mode", "model": "--model"}


def _parameters(**values: Any) -> DepthParameters:
    try:
        return DepthParameters(**values)
    except ValidationError as error:
        faults = []
        for e in error.errors():
            name = str(e["loc"][0]) if e["loc"] else ""
            fault = f"a multiple of 64 from 256 to 2048, not {e['input']}" if name == "resolution_lower_limit" else e["msg"]
            faults.append(f"{_OPTIONS[name]}: {fault}" if name in _OPTIONS else fault)
        raise ConfigurationError("; ".join(faults)) from None


def _photos(patterns: Sequence[str]) -> list[Path]:
    """The files that the arguments name, each once, in order. A folder means the photos directly in it.

    Depth maps of an earlier run that lie in a folder, or that a pattern matches, are not taken for photos.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            try:
                there = sorted(path.iterdir())
            except OSError as error:
                raise ConfigurationError(f"{path} cannot be read: {error.strerror or error}") from None
            files = [
                file for file in there if file.suffix.lower() in decode.EXTENSIONS and file.is_file() and not _is_depth_map(file)
            ]
        elif path.is_file():
            files = [path]
        else:
            matches = map(Path, sorted(glob.glob(pattern, recursive=True)))
            files = [file for file in matches if file.is_file() and not _is_depth_map(file)]
        if not files:
            raise ConfigurationError(f"no photo at {pattern}")
        found.update(dict.fromkeys(files))
    return list(found)


def _is_depth_map(file: Path) -> bool:
    return file.name.endswith(tuple(f".{name}" for name in (encode.PNG, encode.PNG16, encode.TIFF, encode.SIDECAR)))


def _items(files: Sequence[Path], store: Store, *, overwrite: bool) -> Iterator[Item]:
    """Each file with the name of its results: its stem, with a number where that is another photo's, of this run or, unless
    they may be overwritten, of an earlier one. Says so where a photo gets a new number because of an earlier one."""
    used: set[str] = set()
    for file in files:
        item = Item(str(file), functools.partial(_read, file), file.stem, file.name)
        number, taken = 1, ""
        while item.folder.lower() in used or (not overwrite and _is_of_another(store, item)):
            taken = taken or ("" if item.folder.lower() in used else item.folder)
            number += 1
            item = replace(item, folder=f"{file.stem}-{number}")
        if taken and not store.exists(f"{item.folder}/{encode.SIDECAR}"):
            console.print(
                f"{escape(str(file))} becomes {escape(item.folder)}.{encode.PNG}: {escape(taken)}.{encode.PNG} is there, of "
                "another photo or of this one before it changed (--overwrite replaces it)",
                soft_wrap=True,
            )
        used.add(item.folder.lower())
        yield item


@app.command()
def doctor() -> None:
    """Says what this installation has and what is wrong with it. Exit status: 0 ready, 1 something is wrong."""
    faults: list[str] = []
    table = Table("", Column(overflow="fold"), show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    versions = encode.versions()
    table.add_row("depthline", f"{versions.depthline} (output version {versions.output})")
    table.add_row("Python", f"{platform.python_version()} on {platform.platform()}")
    table.add_row("torch", versions.torch or "[red]not installed[/red]")
    try:
        now = settings.load()
    except ConfigurationError as error:
        console.print(table)
        console.print(f"[red]wrong[/red] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(1) from None

    def look(what: str, ask: Any) -> None:
        try:
            table.add_row(what, escape(ask()))
        except (DepthlineError, ImportError) as error:
            faults.append(what)
            table.add_row(what, f"[red]{escape(str(error))}[/red]")

    look("device", lambda: _device(now))
    look("store", lambda: _store(now))
    look("profiles", lambda: _profiles(now))
    if now.checkpoints_url:
        look("checkpoints", lambda: _checkpoints_folder(now))
    rows = checkpoints.describe_models(now)
    if any(row.presence is Presence.WRONG for row in rows):
        faults.append("models")
    console.print(table)
    console.print()
    console.print(_models(rows))
    if faults:
        console.print(f"\n[red]wrong:[/red] {', '.join(faults)}")
    raise typer.Exit(1 if faults else 0)


def _device(now: settings.Settings) -> str:
    from depth_core.inference import predictor

    return f"{predictor.choose_device(now)} (DEPTH_DEVICE={now.device})"


def _store(now: settings.Settings) -> str:
    store = Store.from_settings(now)
    store.check_writable()
    return f"{store.url('')}, writable"


def _profiles(now: settings.Settings) -> str:
    path = display.shown_url(now.profiles_location)
    if not now.model_fields_set & {"data", "profiles"} and not Path(path).exists():
        return f"none at {path}; bulk runs alone need them"
    found = profiles.of(now)
    faults = [f"[{name}] checkpoint: {fault}" for name, profile in found.items() if (fault := _fault_of_checkpoint(profile, now))]
    if faults:
        raise ConfigurationError(f"{path}: " + "; ".join(faults))
    return f"{path}: {', '.join(found)}"


def _fault_of_checkpoint(profile: profiles.Profile, now: settings.Settings) -> str:
    """What is wrong with the weights that a profile names itself; that they are not fetched yet is not wrong."""
    if not profile.checkpoint:
        return ""
    try:
        checkpoints.checked(checkpoints.resolve(profile.parameters.spec, now, profile.checkpoint, download=False))
    except ModelAbsentError:
        return ""
    except ModelUnavailableError as error:
        return str(error)
    return ""


def _checkpoints_folder(now: settings.Settings) -> str:
    url = now.checkpoints_url
    folder = Store(url, now.source_options if "://" in url else None)
    if not folder.entries(""):
        raise ConfigurationError(f"nothing at {copies.shown(url)}: correct DEPTH_CHECKPOINTS_URL")
    return copies.shown(folder.url(""))


_COLOURS = {Presence.HERE: "green", Presence.ABSENT: "yellow", Presence.WRONG: "red"}


def _models(rows: Sequence[checkpoints.ModelRow]) -> Group:
    """What the models are, then where the weights of each would come from: two tables, as one is too wide for a terminal."""
    facts = Table("model", "parameters", "licence", "numbers", "patch", "memory", header_style="bold", box=None, pad_edge=False)
    origins = Table("model", Column("weights", overflow="fold"), header_style="bold", box=None, pad_edge=False)
    for row in rows:
        spec = row.spec
        facts.add_row(
            spec.key,
            f"{spec.parameters_million:,.1f} M",
            spec.licence,
            spec.kind.value.replace("_", " "),
            str(spec.patch),
            f"{row.memory_gib:.1f} GiB",
        )
        origin = escape(row.source.removeprefix(f"{spec.key} is not here yet: "))
        colour = _COLOURS[row.presence]
        origins.add_row(spec.key, f"[{colour}]{row.presence.value}[/{colour}]: {origin}")
    note = (
        "Memory: one image of 1024 x 1024. Disparity: large is near, no unit. Relative depth: large is far, no unit. "
        "Metric depth: large is far, metres."
    )
    return Group(facts, f"[dim]{note}[/dim]", "", origins)


models_app = typer.Typer(invoke_without_command=True, help="Lists the models; `fetch` gets weights ahead of time.")
app.add_typer(models_app, name="models")


@models_app.callback()
def models(context: typer.Context) -> None:
    """Lists every model: size, licence, what its numbers mean, where its weights would come from and whether they are there."""
    if context.invoked_subcommand is None:
        with _clear_errors():
            console.print(_models(checkpoints.describe_models(settings.load())))


@models_app.command()
def fetch(
    names: Annotated[list[str], typer.Argument(help="Models as `depthline models` lists them, v2/small for example.")],
) -> None:
    """Gets the weights of models ahead of time. Exit status: 0 all are there, 2 some are not."""
    with _clear_errors():
        now, specs = settings.load(), [_model(name) for name in names]
    failures: list[DepthlineError] = []
    for spec in specs:
        try:
            checkpoint = checkpoints.fetch(spec, now)
        except DepthlineError as error:
            failures.append(error)
        else:
            console.print(f"{spec.key}: {escape(checkpoint.source)} at {escape(str(checkpoint.path))}", soft_wrap=True)
    for failure in failures:
        _print_error(failure)
    if failures:
        raise typer.Exit(2)


@app.command()
def artwork(artwork_id: Annotated[UUID, typer.Argument(help="Of an artwork.")]) -> None:
    """Shows an artwork of the HTTP door or the inbox: what it is now, what it went through, the Dagster runs that had it."""
    with _clear_errors(), _artworks() as (store, now):
        stored = store.get(artwork_id)
        if stored is None:
            raise DepthlineError(f"there is no artwork {artwork_id} in {store.database.shown_url}")
        console.print_json(stored.answer(now.public_url).model_dump_json(by_alias=True, exclude_none=True))
        facts = [("asked by", f"{stored.api_key_id}, {stored.source}"), ("attempts", str(stored.attempts))]
        if stored.folder:
            facts.append(("files", Store.from_settings(now).url(stored.folder)))
        for drain in store.drains_of(artwork_id):
            facts.append(("run", f"{drain.run_id or 'none'} ({drain.worker} on {drain.host}, device {drain.device})"))
        for step in store.history(artwork_id):
            facts.append((f"{step.at:%Y-%m-%d %H:%M:%S}Z", " ".join(filter(None, (step.status.value, step.worker, step.note)))))
    for name, words in facts:
        console.print(f"{name:<22}{escape(words)}", soft_wrap=True)


webhooks_app = typer.Typer(no_args_is_help=True, help="Deliver webhooks, send one again, show the secret that signs them.")
app.add_typer(webhooks_app, name="webhooks")


@webhooks_app.command()
def deliver(
    once: Annotated[bool, typer.Option("--once", help="Try what is due now, then end.")] = False,
) -> None:
    """Delivers webhooks until it is interrupted, as the HTTP door does by itself unless DEPTH_WEBHOOKS_IN_DOOR is false."""
    with _clear_errors(), _artworks() as (store, now):
        if once:
            console.print(f"{asyncio.run(webhooks.deliver_once(store, now)):,} attempts")
        else:
            asyncio.run(_deliver_until_stopped(store, now))


async def _deliver_until_stopped(store: ArtworkStore, now: settings.Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await webhooks.deliver_loop(store, now, stop)


@webhooks_app.command()
def replay(id: Annotated[UUID, typer.Argument(help="Of an artwork or of a delivery.")]) -> None:
    """Sends an artwork's webhook again, whatever became of it before."""
    with _clear_errors(), _artworks() as (store, _):
        console.print(f"{webhooks.replay(store, id):,} deliveries are due again")


@webhooks_app.command()
def attempts(artwork_id: Annotated[UUID, typer.Argument(help="Of an artwork.")]) -> None:
    """Lists every attempt at an artwork's webhook."""
    with _clear_errors(), _artworks() as (store, _):
        for delivery, tried in webhooks.deliveries(store, artwork_id):
            console.print(f"{delivery.id} {delivery.state} {escape(delivery.url)}", soft_wrap=True)
            for attempt in tried:
                result = attempt.error or f"HTTP {attempt.status_code}"
                console.print(f"  {attempt.at:%Y-%m-%d %H:%M:%S}Z {attempt.seconds:.2f} s {escape(result)}", soft_wrap=True)


@webhooks_app.command()
def secret(
    name: Annotated[str, typer.Argument(help="Name of the API key; `local` without keys, `inbox` for inbox files.")],
) -> None:
    """Prints the secret with which a receiver verifies the webhooks of an API key; makes it when there is none."""
    with _clear_errors(), _artworks() as (store, now):
        webhooks.check_api_key_id(store, now, name)
        console.print(webhooks.secret(store, now, name), soft_wrap=True)


@contextmanager
def _artworks() -> Iterator[tuple[ArtworkStore, settings.Settings]]:
    now = settings.load()
    store = open_store(now)
    try:
        yield store, now
    finally:
        store.close()


@contextmanager
def _clear_errors() -> Iterator[None]:
    try:
        yield
    except DepthlineError as error:
        _print_error(error)
        raise typer.Exit(2) from None


def _print_error(error: DepthlineError) -> None:
    errors.print(f"[red]error[/red] {escape(str(error))}", soft_wrap=True)


def main() -> None:
    app()
