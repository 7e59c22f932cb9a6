"""The result of materializing a manifest, and how it is printed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
import pandas as pd
from rich.console import Console
from rich.table import Table

from depth_core import layout
from depth_core.display import shown_url
from depth_core.output.outcomes import FAILED, SUCCEEDED
from depth_core.storage import Store
from depth_core.terminal import message, name
from pipelines import names
from pipelines.event_facts import DepthMapsFacts

LISTED = 10  # failures, failed checks, and chunks with their places, that are printed


@dataclass
class Report:
    """The result of materializing a manifest."""

    uri: str
    chunks: list[str]
    left_alone: list[str] = field(default_factory=list)  # chunks that were complete and unchanged
    records: pd.DataFrame = field(default_factory=pd.DataFrame)  # of all chunks
    seconds: float = 0.0
    made: int = 0  # depth maps
    failed: int = 0  # images that were tried now and failed in decoding or in the network
    spans: list[tuple[float, float]] = field(default_factory=list)  # from when to when each chunk was made, with the model loaded
    failed_checks: list[str] = field(default_factory=list)  # of all chunks

    def add(self, run: dg.ExecuteInProcessResult) -> None:
        """Counts what a run did."""
        for event in run.get_asset_materialization_events():
            if event.asset_key == dg.AssetKey(names.DEPTH_MAPS):
                facts = DepthMapsFacts.read(event.materialization.metadata)
                self.made += facts.made
                self.failed += facts.failed
                self.spans.append((facts.ended - facts.seconds, facts.ended))
        self.add_checks(run.get_asset_check_evaluations())

    def add_checks(self, checks: Iterable[dg.AssetCheckEvaluation]) -> None:
        self.failed_checks += [f"{check.check_name}: {check.description}" for check in checks if not check.passed]

    @property
    def depth_maps(self) -> int:
        """All that the manifest has now: rows of one image share one."""
        return int(self.records["folder"].nunique())

    @property
    def done_before(self) -> int:
        return max(0, self.depth_maps - self.made)

    @property
    def images_per_second(self) -> float:
        seconds, until = 0.0, 0.0
        for begun, ended in sorted(self.spans):  # a chunk begins before the last image of the one before it is done
            seconds += max(0.0, ended - max(begun, until))
            until = max(until, ended)
        return (self.made + self.failed) / seconds if seconds else 0.0


def print_report(report: Report, profile: str, store: Store, console: Console) -> None:
    """Prints the short table and where everything lies."""
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for row in (*_rows_of_records(report, profile), *_rows_of_work(report)):
        table.add_row(*row)
    for check in report.failed_checks[:LISTED]:
        table.add_row("[yellow]check failed[/yellow]", message(check))
    console.print()
    console.print(table)
    console.print()
    places = [("files", layout.DEPTH)]
    for chunk in report.chunks[:LISTED]:
        places += [("gallery", layout.gallery_page_key(profile, chunk)), ("table", layout.records_key(profile, chunk))]
    for what, key in places:
        console.print(f"{what:<9}{name(store.url(key))}", soft_wrap=True)
    if len(report.chunks) > LISTED:
        console.print(f"{'':<9}and {len(report.chunks) - LISTED:,} more chunks")


def _rows_of_records(report: Report, profile: str) -> Iterable[tuple[str, str]]:
    frame = report.records
    failed = frame[frame["status"] == FAILED]
    yield "rows", f"{len(frame):,} of {message(report.uri)} under profile {profile}"
    yield "succeeded", f"[green]{int((frame['status'] == SUCCEEDED).sum()):,}[/green]"
    yield "failed", f"[red]{len(failed):,}[/red]" if len(failed) else "0"
    listed = failed.head(LISTED).astype(object)
    for row in listed.where(listed.notna(), None).itertuples(index=False):
        yield "", _failure(row)
    if len(failed) > LISTED:
        yield "", f"and {len(failed) - LISTED:,} more; the table has them all"


def _failure(row: Any) -> str:
    called = row.row_id or row.image_url or f"line {row.line}"
    return f"[red]{row.error_kind}[/red] {name(shown_url(str(called)))}: {message(row.error_message)}"


def _rows_of_work(report: Report) -> Iterable[tuple[str, str]]:
    if report.made:
        yield "made now", f"{report.made:,} depth maps, {report.images_per_second:.1f} images/s"
    elif report.failed or not report.depth_maps:
        yield "made now", "no depth map"
    else:
        yield "made now", "nothing was left to do"
    if report.done_before:
        yield "made before", f"{report.done_before:,} depth maps; not made again"
    if report.left_alone:
        yield "left alone", f"{len(report.left_alone):,} of {len(report.chunks):,} chunks: complete and unchanged"
    yield "took", f"{report.seconds:.1f} s"
