"""`depthline worker`: serves single requests without Dagster."""

from __future__ import annotations

import math
import signal
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from depth_core import settings as settings_module
from depth_core.cli.common import clear_errors, console, errors
from depth_core.errors import DepthlineError
from depth_core.terminal import message

if TYPE_CHECKING:
    from depth_core.serving.worker.report import Report
    from depth_core.serving.worker.worker import Worker


def worker(
    device: Annotated[
        str, typer.Option(help="cpu, cuda, cuda:1, mps; auto: as DEPTH_DEVICE says. One worker for each device.")
    ] = "auto",
    idle_timeout: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Seconds without work after which it ends; default: DEPTH_IDLE_TIMEOUT_SECONDS; with DEPTH_WARM_MODELS never.",
        ),
    ] = None,
    forever: Annotated[bool, typer.Option("--forever", help="Run until a signal arrives, even when nothing waits.")] = False,
) -> None:
    """Computes what the HTTP API and the inbox were asked for, as Dagster's job `serve_inbox` does, until nothing comes.

    SIGTERM or Ctrl-C ends it once the images on the device are done, and gives other claims back. A second signal ends it without
    waiting for those images.
    """
    with clear_errors():
        from sqlalchemy.exc import SQLAlchemyError

        from depth_core.serving.worker.opening import open_worker
        from depth_core.storage import Store

        if forever and idle_timeout is not None:
            raise typer.BadParameter("--forever and --idle-timeout exclude each other")
        settings = settings_module.load()
        if forever:
            idle_timeout, settings = math.inf, settings.model_copy(update={"max_worker_seconds": math.inf})
        store = Store.from_settings(settings)
        with open_worker(
            settings, store, device=device, idle_timeout=idle_timeout, warn=_warn, on_progress=_print_finished
        ) as opened:
            _stop_at_signals(opened)
            console.print(f"{opened.name} serves on device {message(device)}", soft_wrap=True)
            try:
                report = opened.serve()
            except SQLAlchemyError as error:
                raise DepthlineError(f"the database {opened.artworks.database.shown_url} does not answer: {error}") from None
        console.print(f"{report.successes:,} succeeded, {report.failures:,} failed, {report.dropped:,} dropped")


def _stop_at_signals(opened: Worker) -> None:
    """The first signal ends the worker in good order; the handlers that were there get the second one."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, frame: FrameType | None) -> None:
        for each, handler in before.items():
            signal.signal(each, handler)
        opened.stop()

    for number in before:
        signal.signal(number, stop)


def _print_finished(report: Report) -> None:
    for artwork_id, status in report.new:
        console.print(f"{artwork_id} {status}", soft_wrap=True)


def _warn(line: str) -> None:
    errors.print(f"[yellow]warning[/yellow] {message(line)}", soft_wrap=True)
