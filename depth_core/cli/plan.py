"""`depthline plan`: what a manifest will cost before it is begun. The figures are found by depth_core.plan."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from depth_core import settings as settings_module
from depth_core import terminal
from depth_core.cli.common import clear_errors, console
from depth_core.display import shown_url

if TYPE_CHECKING:
    from depth_core.plan.estimate import Estimate


def plan(
    manifest: Annotated[str, typer.Argument(help="A manifest: path, s3:// or http(s) URL.")],
    profile: Annotated[str, typer.Option(help="The profile whose depth maps are to be made.")],
    images_per_second: Annotated[
        float | None,
        typer.Option(min=0.001, help="How many images a second one device makes.", show_default="tried here for --seconds"),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, max=600, help="How long the trial is, once the model is loaded.")] = 10.0,
    sample: Annotated[
        int, typer.Option(min=0, max=10_000, help="How many images that the store does not have are asked for their size.")
    ] = 200,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.", show_default="as DEPTH_DEVICE says")] = "",
    store: Annotated[str, typer.Option(help="Folder or s3://bucket/prefix.", show_default="as DEPTH_STORE_URL says")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Computes what a manifest will cost: rows, new images, bytes, device hours, requests to S3, disk. Makes nothing.

    Exit status: 0 done, 2 bad use.
    """
    with clear_errors():
        from depth_core.plan.estimate import estimate
        from depth_core.storage import Store

        overrides = {"device": device} if device else {}
        settings = settings_module.load(**overrides | ({"store_url": store} if store else {}))
        there = Store.from_settings(settings)
        found = estimate(
            manifest, profile, there, settings, images_per_second=images_per_second or 0.0, sample=sample, seconds=seconds
        )
        if as_json:
            typer.echo(json.dumps(found.as_json() | {"manifest": shown_url(manifest)}, indent=2))
            return
        for name, text in _lines(found, is_local=there.local):
            console.print(f"{name:<11}{terminal.message(text)}", soft_wrap=True)


def _lines(found: Estimate, *, is_local: bool) -> Iterator[tuple[str, str]]:
    images, about = found.images, "about " if found.images.is_estimate else ""
    bad = f", {found.bad_rows:,} without a usable URL" if found.bad_rows else ""
    yield "manifest", f"{shown_url(found.manifest)}: {found.rows:,} rows{bad}, {images.different:,} different images"
    yield (
        "chunks",
        f"{found.chunks:,} of {found.rows_per_chunk:,} rows, {found.partitions:,} partitions with {found.profiles} profiles",
    )
    given_up = f"; {images.given_up:,} failed for good before" if images.given_up else ""
    make = f"{about}{images.to_make:,} depth maps to make under {found.profile}"
    yield "new", f"{about}{images.to_fetch:,} images to fetch, {make}{given_up}"
    yield "download", _download(found)
    yield "device", _device(found)
    counts = ", ".join(f"{count:,} {operation}" for operation, count in sorted(found.requests.items(), key=lambda each: -each[1]))
    yield "S3", f"{counts}{' (if the store were in a bucket)' if is_local else ''}"
    each = f", {_bytes(found.bytes_per_depth_map)} a depth map" if found.bytes_per_depth_map is not None else ""
    unknown = "unknown: a size is missing above, or no depth map was measured"
    yield "disk", f"{_bytes(found.disk_bytes)}{each}" if found.disk_bytes is not None else unknown
    for number, assumption in enumerate(found.assumptions):
        yield "" if number else "assumed", assumption


def _download(found: Estimate) -> str:
    asked = f"{found.sizes_known:,} of {found.sizes_asked:,} that were asked said their size"
    if not found.images.to_fetch:
        return "nothing"
    if found.download_bytes is None or found.bytes_per_source is None:
        return f"unknown: {asked}"
    return f"{_bytes(found.download_bytes)}, {_bytes(found.bytes_per_source)} an image ({asked})"


def _device(found: Estimate) -> str:
    if not found.images.to_make:
        return "nothing to make"
    tried = found.trial
    how = f"measured on {tried.device}, {tried.images:,} images in {tried.seconds:.1f} s" if tried else "as given"
    return f"{found.device_hours:,.2f} hours of one, at {found.images_per_second or 0:,.2f} images/s ({how})"


def _bytes(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"
