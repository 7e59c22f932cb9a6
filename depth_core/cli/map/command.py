"""`depthline map`: the depth maps of photos, in a folder, without a pipeline.

What does not belong here: which files are meant (photos.py), and what their results are called (result_names.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from depth_core import catalog, startup, terminal
from depth_core import settings as settings_module
from depth_core.cli.common import clear_errors, console, model_named
from depth_core.contract import DepthParameters, NormalizationMode
from depth_core.errors import ConfigurationError
from depth_core.output import formats
from depth_core.output.outcomes import FAILED
from depth_core.settings import Settings

if TYPE_CHECKING:
    from depth_core.cli.map.photos import Found
    from depth_core.cli.map.result_names import Named
    from depth_core.engine.stages import Item, Plan
    from depth_core.inference.checkpoints import Checkpoint
    from depth_core.storage import Store

_MANY = 20  # photos, for which a trial of what computes faster is worth its second
LISTED = 10  # photos that get another name, and are named


def map_photos(
    photos: Annotated[
        list[str], typer.Argument(help="Photos, folders with all below them, or patterns such as 'shots/**/*.jpg'.")
    ],
    out: Annotated[str, typer.Option(help="Folder, or s3://bucket/prefix, for NAME.depth.png and NAME.depth.json.")],
    model: Annotated[
        str, typer.Option(help=f"{catalog.BUNDLED.key}, or FAMILY/NAME such as v2/small; `depthline models` lists all.")
    ] = catalog.BUNDLED.key,
    resolution: Annotated[
        int | None,
        typer.Option(
            help="Short side that the network sees: 256 to 2048, a multiple of 64. More detail, more time.",
            show_default=f"{catalog.BUNDLED.family.advised_limit} for {catalog.BUNDLED.key}, else {catalog.V2.advised_limit}",
        ),
    ] = None,
    invert: Annotated[bool, typer.Option("--invert", help="Lighter is farther.")] = False,
    mode: Annotated[NormalizationMode, typer.Option(help="All but Standard need a V3 model.")] = NormalizationMode.STANDARD,
    network_size: Annotated[bool, typer.Option("--network-size", help="Keep the network's size, not the photo's.")] = False,
    also: Annotated[
        list[str] | None,
        typer.Option(help=f"Another file to write, one of: {', '.join(formats.by_name())}. May be given again."),
    ] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda, cuda:1, mps, openvino:GPU.", show_default="as DEPTH_DEVICE says")
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Make again what is there already.")] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace depth maps of other photos or options, instead of writing NAME-2.depth.png beside them.",
        ),
    ] = False,
) -> None:
    """Makes the depth map of every photo. Exit status: 0 all made, 1 some failed, 2 nothing could be done, 130 interrupted."""
    with clear_errors():
        from depth_core.engine.stages import Plan

        spec = model_named(model)
        settings = settings_module.load(**({"device": device} if device else {}))
        parameters = _parameters(
            model=spec.name,
            use_version_3=bool(spec.family.use_version_3),
            **({} if resolution is None else {"resolution_lower_limit": resolution}),
            invert_depth=invert,
            normalization_mode=mode,
            use_post_resize=not network_size,
        )
        if not out or out in ("s3://", "s3:///"):
            raise ConfigurationError(f"--out {out!r} is not a place to write to: give a folder or s3://bucket/prefix")
        plan = Plan(parameters, _extra_files(also or ()))
        failures = _map(photos, out, plan, settings, force=force, overwrite=overwrite)
    raise typer.Exit(1 if failures else 0)


def _map(patterns: Sequence[str], out: str, plan: Plan, settings: Settings, *, force: bool, overwrite: bool) -> int:
    """Finds the photos, names their results, makes what is not there; returns how many photos and folders failed."""
    from depth_core.cli.map import photos, result_names
    from depth_core.inference import checkpoints

    found = photos.find(patterns, out)
    store = result_names.FlatStore(out, settings.store_options if "://" in out else None)
    store.check_writable()
    checkpoint = checkpoints.resolve(plan.parameters.spec, settings)
    asked = result_names.Asked(plan.parameters, checkpoint.revision, plan.extra_files)
    try:
        known = list(result_names.named(found.photos, store, asked, overwrite=overwrite))
        _print_other_names(known)
        todo = [photo.item for photo in known if force or not photo.done]
        if len(todo) < len(known):
            console.print(f"{len(known) - len(todo):,} of {len(known):,} are there already (--force makes them again)")
        failures = _run(todo, checkpoint, plan, store, settings) if todo else 0
    finally:
        store.tidy()
    made = len(todo) - failures
    failures += _print_unreadable_folders(found)
    console.print(
        f"{made:,} depth map{'' if made == 1 else 's'} made in {terminal.name(out)}"
        + (f", [red]{failures:,} failed[/red]" if failures else ""),
        soft_wrap=True,
    )
    if found.skipped:
        console.print(f"skipped: {terminal.name(photos.summary(found.skipped))}: not read", soft_wrap=True)
    return failures


def _run(todo: Sequence[Item], checkpoint: Checkpoint, plan: Plan, store: Store, settings: Settings) -> int:
    """Runs the engine, shows how far it is, prints each failure; returns how many there were."""
    from depth_core.engine import choose

    failures = 0
    with terminal.meter(console, "photos") as meter:
        meter.start(f"loading {checkpoint.spec.key}", len(todo))
        with ExitStack() as stack:
            with startup.without_collecting(for_good=True):
                may_try = len(todo) >= _MANY
                engine = stack.enter_context(choose.open_engine(checkpoint, store=store, settings=settings, may_try=may_try))
            run = stack.enter_context(closing(engine.run(todo, plan)))
            meter.start(f"{checkpoint.spec.key} on {engine.place}", len(todo))
            for done, (item, outcome) in enumerate(run, 1):
                if outcome.status == FAILED:
                    failures += 1
                    _print_failure(outcome.error_kind, item.source, outcome.error_message or "")
                meter.at(done)
    return failures


def _print_failure(kind: str | None, source: object, reason: str) -> None:
    console.print(f"[red]{kind}[/red] {terminal.name(source)}: {terminal.message(reason)}", soft_wrap=True)


def _print_other_names(known: Iterable[Named]) -> None:
    """Prints which photos get another name than their own because of an earlier run."""
    moved = [photo for photo in known if photo.instead_of]
    for photo in moved[:LISTED]:
        console.print(
            f"{terminal.name(photo.item.source)} becomes {terminal.name(photo.item.folder)}.depth.png: "
            f"{terminal.name(photo.instead_of)}.{terminal.name(photo.why)} (--overwrite replaces it)",
            soft_wrap=True,
        )
    if len(moved) > LISTED:
        console.print(f"and {len(moved) - LISTED:,} more photos get another name in the same way")


def _print_unreadable_folders(found: Found) -> int:
    """Prints which folders could not be read; returns how many."""
    for folder, reason in found.unreadable:
        _print_failure("forbidden", folder, f"this folder cannot be read: {reason}")
    return len(found.unreadable)


def _extra_files(names: Iterable[str]) -> tuple[str, ...]:
    try:
        return formats.check_names(names)
    except ValueError as error:
        raise ConfigurationError(f"--also: {error}") from None


# The contract's fields by the name they have here.
_OPTIONS = {"resolution_lower_limit": "--resolution", "normalization_mode": "--mode", "model": "--model"}


def _parameters(**values: Any) -> DepthParameters:
    try:
        return DepthParameters(**values)
    except ValidationError as error:
        errors = []
        for e in error.errors():
            name = str(e["loc"][0]) if e["loc"] else ""
            reason = f"a multiple of 64 from 256 to 2048, not {e['input']}" if name == "resolution_lower_limit" else e["msg"]
            errors.append(f"{_OPTIONS[name]}: {reason}" if name in _OPTIONS else reason)
        raise ConfigurationError("; ".join(errors)) from None
