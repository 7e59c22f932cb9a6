"""`depthline explain`: why one image failed, or what became of it. What is known is found by depth_core.explain."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from depth_core import settings as settings_module
from depth_core import terminal
from depth_core.cli.common import clear_errors, console, errors
from depth_core.display import shown_url

if TYPE_CHECKING:
    from depth_core.explain.cures import Cure
    from depth_core.explain.requests import RequestFacts
    from depth_core.explain.rows import ProfileOutcome, RowFacts, Source
    from depth_core.settings import Settings
    from depth_core.storage import Store

Lines = Iterator[tuple[str, str]]  # a name, printed once, and what belongs to it


def explain(
    what: Annotated[
        str,
        typer.Argument(
            metavar="ROW|URL|SHA256|ARTWORK",
            help="A row's id or key, an image's URL, path or file name, its sha256 or the beginning of it, or an artwork's id.",
        ),
    ],
    manifest: Annotated[str | None, typer.Option(help="Only rows of this manifest: its name, path or URI.")] = None,
    profile: Annotated[str | None, typer.Option(help="Only what became of it under this profile.")] = None,
    chunk: Annotated[
        bool, typer.Option("--chunk", help="Also check whether its chunk is complete: looks at all its files.")
    ] = False,
    store: Annotated[str, typer.Option(help="Folder or s3://bucket/prefix.", show_default="as DEPTH_STORE_URL says")] = "",
) -> None:
    """Explains why an image failed, or what became of it, and what to run to try again. Exit status: 0 found, 1 nothing found,
    2 bad use."""
    with clear_errors():
        from depth_core.explain import requests, search
        from depth_core.storage import Store

        settings = settings_module.load(**({"store_url": store} if store else {}))
        there = Store.from_settings(settings)
        found = search.find(what, there, settings, of_manifest=manifest, profile=profile)
        blocks = [(_title_of_row(facts), _lines_of_row(facts, there, settings, with_chunk=chunk)) for facts in found.rows]
        blocks += [
            (f"artwork {facts.artwork_id}, a single request", _lines_of_request(facts))
            for artwork_id in found.requests
            if (facts := requests.read(artwork_id, there, settings)) is not None
        ]
        for number, (title, lines) in enumerate(blocks):
            _print_block(title, lines, first=not number)
    if not blocks:
        place = shown_url(settings.store_location)
        terminal.print_error(errors, f"nothing is known of {what}: {place} has no row, image or artwork of that name")
        raise typer.Exit(1)
    if found.more:
        console.print(f"\nand {found.more:,} more; --manifest or a longer name finds fewer")


def _print_block(title: str, lines: Lines, *, first: bool) -> None:
    if not first:
        console.print()
    console.print(terminal.message(title), soft_wrap=True)
    for name, text in lines:
        console.print(f"  {terminal.name(name):<12}{terminal.message(text)}", soft_wrap=True)


# -- rows of manifests --------------------------------------------------------------------------------------------------------


def _title_of_row(facts: RowFacts) -> str:
    called = f"row {shown_url(facts.row_id)}" if facts.row_id else "a row without an id"
    line = f", line {facts.line}" if facts.line is not None else ""
    return f"{called} of {shown_url(facts.file or facts.manifest)}{line}"


def _lines_of_row(facts: RowFacts, store: Store, settings: Settings, *, with_chunk: bool) -> Lines:
    from depth_core.explain import chunk_state

    if facts.manifest and facts.manifest != facts.file:
        yield "manifest", shown_url(facts.manifest)
    yield "chunk", facts.chunk
    yield "row key", shown_url(facts.row_key)
    yield "image", shown_url(facts.image_url) or "none"
    yield from _lines_of_source(facts.source)
    if not facts.profiles:
        yield "profiles", "none, and no records: see DEPTH_PROFILES"
    for outcome in facts.profiles:
        yield from _lines_of_outcome(outcome)
        if with_chunk:
            yield "", chunk_state.describe(facts.chunk, outcome.profile, store, settings)


def _lines_of_source(source: Source | None) -> Lines:
    if source is None:
        yield "source", "not fetched yet"
        return
    if source.sha256:
        facts = [source.content_type, f"{source.bytes or 0:,} bytes", _attempts(source.attempts) if source.attempts else ""]
        yield "source", f"fetched {_time(source.fetched_at)}, {', '.join(filter(None, facts))}"
        yield "sha256", source.sha256
    if source.error_kind:
        yield "source", f"failed: {source.error_kind}, {_lasting(source.error_kind)}, {_attempts(source.attempts)}"
        yield "", source.error_message or ""
    if source.robots:
        yield "server says", source.robots


def _lines_of_outcome(outcome: ProfileOutcome) -> Lines:
    yield outcome.profile, _status(outcome)
    if outcome.error_message:
        yield "", outcome.error_message
    if outcome.files:
        yield "", f"files: {', '.join(outcome.files)} in {shown_url(outcome.folder)}"
    if outcome.lost_files:
        yield "", f"these files are gone: {', '.join(outcome.lost_files)}"
    if outcome.status:
        yield "", f"artwork {outcome.artwork_id}, recorded by run {outcome.run_id or 'unknown'}"
    if outcome.unfinished is not None:
        newer = outcome.unfinished
        why = f": {newer.error_kind}, {newer.error_message}" if newer.error_kind else ""
        yield "", f"a run that has not finished reports {newer.status}{why}"
    if outcome.deaths is not None:
        alone = f"; {outcome.deaths} times with no other image in progress" if outcome.deaths else ""
        yield "", f"this image was in progress when a run died{alone}"
    yield from (("", line) for line in _cure(outcome.cure, "to try again:" if outcome.status else "to make it:"))


_WITHOUT_RECORD = {
    "row": "not made: its row is wrong",
    "source": "not made: its image could not be fetched",
    "not fetched": "not made: its image is not fetched yet",
    "not made": "not made yet",
}


def _status(outcome: ProfileOutcome) -> str:
    if not outcome.status:
        return _WITHOUT_RECORD[outcome.stage]
    tried = _attempts(outcome.attempts) if outcome.attempts else "never tried"
    when = f", {_time(outcome.finished_at)}" if outcome.finished_at else ""
    model = f" with {outcome.model}" if outcome.model else ""
    kind = f": {outcome.error_kind}, {_lasting(outcome.error_kind)}" if outcome.error_kind else ""
    since = "; its image was fetched since" if outcome.stage == "not made" else ""
    return f"{outcome.status}{model}{kind}, {tried}{when}{since}"


def _cure(cure: Cure, heading: str = "") -> Iterator[str]:
    if cure.advice:
        yield f"to do: {cure.advice}"
    if cure.by_itself:
        yield "every later run of this chunk tries again automatically; to try now:"
    elif cure.jobs:
        yield "then:" if cure.advice else heading
    yield from (f"  {command}" for command in cure.commands)


# -- single requests ----------------------------------------------------------------------------------------------------------


def _lines_of_request(facts: RequestFacts) -> Lines:
    kind = f": {facts.error_kind}, {_lasting(facts.error_kind)}" if facts.error_kind else ""
    yield "status", f"{facts.status}{kind}, {_attempts(facts.attempts) if facts.attempts else 'never tried'}"
    if facts.error_message:
        yield "", facts.error_message
    yield "image", shown_url(facts.image_url)
    if facts.sha256:
        yield "sha256", facts.sha256
    yield "model", facts.model or "unknown"
    yield "asked by", f"{facts.api_key_id}, {facts.origin}, {_time(facts.created_at)}"
    if facts.files:
        yield "files", f"{', '.join(facts.files)} in {shown_url(facts.folder)}"
    for run in facts.runs:
        yield "run", run
    for at, step in facts.history:
        yield "", f"{_time(at)} {step}"
    yield from (("", line) for line in _cure(facts.cure))
    if facts.error_kind:
        yield "", "to try again: send the request again, with another Idempotency-Key"


# -- text ---------------------------------------------------------------------------------------------------------------------


def _lasting(error_kind: str) -> str:
    from depth_core.explain.cures import kind_of

    return "temporary" if kind_of(error_kind).retryable else "permanent"


def _attempts(number: int) -> str:
    return f"{number:,} attempt{'' if number == 1 else 's'}"


def _time(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}Z" if at is not None else "at an unknown time"
