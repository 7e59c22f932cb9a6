"""`depthline doctor`: what is configured and installed here, and what is wrong with it."""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import typer
from rich.table import Column, Table

from depth_core import profiles, terminal, url_schemes
from depth_core import settings as settings_module
from depth_core.catalog import BY_KEY
from depth_core.cli import models
from depth_core.cli.common import clear_errors, console
from depth_core.display import shown_url
from depth_core.errors import ConfigurationError, DepthlineError, ModelAbsentError, ModelUnavailableError
from depth_core.inference import checkpoints, devices, runtimes
from depth_core.inference.checkpoints import Presence
from depth_core.output import depth_folder
from depth_core.profiles import Profile
from depth_core.settings import Settings
from depth_core.storage import Store


def doctor() -> None:
    """Checks device, store, database, profiles and models. Exit status: 0 ready, 1 something is wrong or a profile cannot run."""
    with clear_errors():
        raise typer.Exit(1 if _print_findings() else 0)


def _table() -> Table:
    return Table("", Column(overflow="fold"), show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))


@dataclass
class _Findings:
    """What was checked, and what of it is wrong."""

    table: Table = field(default_factory=_table)
    wrong: list[str] = field(default_factory=list)

    def check(self, what: str, ask: Callable[[], str]) -> bool:
        """Adds a row with the answer, or with what is wrong; returns whether nothing is."""
        try:
            self.table.add_row(what, terminal.message(ask()))
        except (DepthlineError, ImportError) as error:
            self.wrong.append(what)
            self.table.add_row(what, f"[red]{terminal.message(error)}[/red]")
            return False
        return True


def _print_findings() -> list[str]:
    """Prints what there is; returns what is wrong."""
    findings = _Findings()
    versions = depth_folder.versions()
    findings.table.add_row("depthline", f"{versions.depthline} (output version {versions.output})")
    findings.table.add_row("Python", f"{platform.python_version()} on {platform.platform()}")
    findings.table.add_row("torch", versions.torch or "[red]not installed[/red]")
    try:
        settings = settings_module.load()
    except ConfigurationError as error:
        console.print(findings.table)
        console.print(f"[red]wrong[/red] {terminal.message(error)}", soft_wrap=True)
        return ["settings"]
    known: dict[str, Profile] = {}
    findings.check("device", lambda: _device(settings))
    findings.check("store", lambda: _store(settings))
    if settings.database_url or (settings.data / "depthline.db").exists():
        findings.check("database", lambda: _database(settings))
    findings.check("profiles", lambda: _profiles(settings, known))
    lacking = [
        profile
        for name, profile in known.items()
        if not findings.check(f"profile {name}", functools.partial(_weights, profile, settings))
    ]
    for key in settings.warm_models:
        findings.check(f"warm {key}", functools.partial(_warm, key, settings))
    if settings.checkpoints_url:
        findings.check("checkpoints", lambda: _checkpoints_folder(settings))
    rows = checkpoints.describe_models(settings)
    findings.wrong += [f"model {row.spec.key}" for row in rows if row.presence is Presence.WRONG]
    console.print(findings.table)
    console.print()
    console.print(models.tables(rows))
    if findings.wrong:
        console.print(f"\n[red]wrong:[/red] {terminal.message(', '.join(findings.wrong))}", soft_wrap=True)
    _print_cure(lacking, rows, settings)
    return findings.wrong


def _print_cure(lacking: list[Profile], rows: list[checkpoints.ModelRow], settings: Settings) -> None:
    """Names the one command that gets the weights which profiles lack, where the Hub has them."""
    on_hub = {row.spec.key for row in rows if row.presence is Presence.ABSENT and row.spec.repository}
    if settings.commercial_only:
        on_hub = {row.spec.key for row in rows if row.spec.key in on_hub and row.spec.commercial}
    keys = dict.fromkeys(each.parameters.spec.key for each in lacking if not each.checkpoint)
    if fetch := [key for key in keys if key in on_hub]:
        place = terminal.name(shown_url(settings.profiles_location))
        console.print(
            f"`depthline models fetch {' '.join(fetch)}` gets what they lack; or take them out of {place}", soft_wrap=True
        )


def _device(settings: Settings) -> str:
    if settings.engine != "local":
        return f"not needed here: work goes to DEPTH_ENGINE={settings.engine} (DEPTH_DEVICE={settings.device})"
    device = devices.device_without_torch(settings)
    if device is None:
        from depth_core.inference import predictor

        device = predictor.choose_device(settings)
    by = f", computed by {runtimes.described(settings)}" if device == "cpu" else ""
    return f"{device} (DEPTH_DEVICE={settings.device}){by}"


def _store(settings: Settings) -> str:
    options = dict(settings.store_options)
    if scheme := url_schemes.bucket_of(settings.store_location):  # whoever checks whether it works does not wait for many retries
        options = scheme.quick(options)
    store = Store(settings.store_location, options)
    store.check_writable()
    return f"{store.url('')}, writable"


def _database(settings: Settings) -> str:
    from depth_core.serving import database

    return database.describe(settings.database_location)


def _profiles(settings: Settings, known: dict[str, Profile]) -> str:
    """Where the profiles are; puts them into `known`."""
    path = shown_url(settings.profiles_location)
    if not settings.model_fields_set & {"data", "profiles"} and not Path(path).exists():
        return f"none at {path}; only bulk runs need them"
    known.update(profiles.of(settings))
    return f"{path}: {', '.join(known)}"


def _weights(profile: Profile, settings: Settings) -> str:
    """What a profile runs with. Raises ConfigurationError when its weights are not here, or of no use: it cannot run."""
    spec = profile.parameters.spec
    try:
        checkpoint = checkpoints.checked(checkpoints.resolve(spec, settings, profile.checkpoint, download=False))
    except ModelAbsentError as error:
        raise ConfigurationError(f"cannot run: {error}") from None
    except ModelUnavailableError as error:
        where = f"[{profile.name}] checkpoint: " if profile.checkpoint else ""
        raise ConfigurationError(f"cannot run: {where}{error}") from None
    return f"can run: {spec.key}, {checkpoint.source}"


def _warm(key: str, settings: Settings) -> str:
    """What a worker keeps a model of DEPTH_WARM_MODELS loaded with. Raises ModelUnavailableError."""
    checkpoint = checkpoints.checked(checkpoints.resolve(BY_KEY[key], settings, download=False))
    return f"kept loaded by a worker on each of {', '.join(settings.worker_devices)}, {checkpoint.source} (DEPTH_WARM_MODELS)"


def _checkpoints_folder(settings: Settings) -> str:
    url = settings.checkpoints_url
    folder = Store(url, settings.source_options if "://" in url else None)
    if not folder.entries(""):
        raise ConfigurationError(f"nothing at {shown_url(url)}: correct DEPTH_CHECKPOINTS_URL")
    return shown_url(folder.url(""))
