"""`manifest_index`: reads one manifest and gives every row its chunk."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import dagster as dg
from pydantic import Field

from depth_core.display import shown_url
from depth_core.errors import ManifestError
from depth_core.ingest import manifest
from depth_core.serving.leases import LeaseLostError, Leases, one_by_one, open_leases
from depth_core.settings import Settings
from depth_core.storage import Store
from pipelines import names, partitions, ranges
from pipelines.event_facts import IndexFacts
from pipelines.partitions import Partitions
from pipelines.resources import DepthlineResource
from pipelines.step_failures import fails_in_one_line


class ManifestConfig(dg.Config):
    uri: str = Field("", description="Path or URL of the manifest, if it is not in the manifests folder.")


_asked_uri: ContextVar[str] = ContextVar("asked_uri", default="")


@contextmanager
def index_config(uri: str) -> Iterator[dict[str, Any]]:
    """Run config for `manifest_index`.

    Run config is visible in Dagster, so a URI with secrets is left out of it. A run inside the block, in this thread, gets such a
    URI from a context variable; any other run finds, by its slug, the URI that was read before or a file of the manifests folder.
    """
    token = _asked_uri.set(uri)
    try:
        yield {"ops": {names.MANIFEST_INDEX: {"config": {"uri": uri if shown_url(uri) == uri else ""}}}}
    finally:
        _asked_uri.reset(token)


def build(parts: Partitions) -> dg.AssetsDefinition:
    @dg.asset(
        partitions_def=parts.manifests,
        group_name=names.INGEST_GROUP,
        kinds={"parquet", "pandas"},
        owners=names.OWNERS,
        description=(
            "Reads one manifest (CSV, TSV, JSONL, Parquet, TXT; gzip; local, http or s3), gives every row its chunk for ever, "
            "writes the chunks whose rows changed and registers their keys."
        ),
    )
    @fails_in_one_line
    def manifest_index(
        context: dg.AssetExecutionContext, config: ManifestConfig, depthline: DepthlineResource
    ) -> dg.MaterializeResult[None]:
        settings, store, slug = depthline.settings(), depthline.store(), context.partition_key
        uri = config.uri or _asked_uri.get() or _uri_of(slug, settings, store)
        if manifest.slug(uri) != slug:
            raise ManifestError(
                f"{shown_url(uri)} belongs to partition {manifest.slug(uri)}, not to {slug}: materialize that partition"
            )
        with open_leases(settings, run_id=context.run.run_id) as leases:
            run = _IndexRun(context, parts, uri, slug, settings, store, leases)
            return dg.MaterializeResult(metadata=run.to_its_end())

    return manifest_index


@dataclass
class _IndexRun:
    """A run of one manifest. One at a time writes, or two would give one place to different rows: Dagster's limits know only
    the runs of its queue."""

    context: dg.AssetExecutionContext
    parts: Partitions
    uri: str
    slug: str
    settings: Settings
    store: Store
    leases: Leases
    unsure: frozenset[str] | None = None  # chunks that it has begun to write: perhaps after another run, which had taken over

    def to_its_end(self) -> dict[str, Any]:
        """Indexes the manifest; returns what Dagster shows of it.

        A run whose lease was taken over, as it was suspended, writes nothing more and begins anew, behind the other one.
        """
        metadata, lease = None, f"{names.MANIFEST_INDEX}|{self.slug}"
        while metadata is None:
            for _ in one_by_one([lease], partial(ranges.hold, self.leases, self.context.log)):
                try:
                    metadata = self._index(partial(self.leases.confirm, lease))
                except LeaseLostError as error:
                    self.context.log.warning(f"{error}: this run writes nothing more of what it has read, and indexes it anew")
        return metadata

    def _index(self, confirm: Callable[[], None]) -> dict[str, Any]:
        """Reads a manifest and writes its chunks and index, as long as `confirm` raises no LeaseLostError."""
        settings, store, slug = self.settings, self.store, self.slug
        profiles = len(self.parts.profiles.get_partition_keys())
        index = manifest.read_index(store, slug)
        rows = manifest.read(self.uri, settings)
        assignment = manifest.assign_chunks(
            rows,
            index,
            slug=slug,
            rows_per_chunk=manifest.rows_per_chunk(len(rows), profiles, settings, index),
            again=self._again(),
        )
        self.unsure = frozenset(assignment.changed).union(self.unsure or ())
        manifest.write_chunks(store, slug, assignment, rows, run_id=self.context.run.run_id, confirm=confirm)
        chunks = sorted(assignment.names)
        partitions.register_chunks(self.context.instance, chunks)
        _warn_of_many_partitions(self.context, profiles)
        return {
            "uri": shown_url(self.uri),
            "rows": len(rows),
            "bad rows": rows.bad_rows,
            "chunks": len(chunks),
            "rows per chunk": assignment.rows_per_chunk,
            "changed chunks": len(assignment.changed),
            "sha256": rows.sha256,
            **IndexFacts.of(assignment.changed).metadata(),
        }

    def _again(self) -> frozenset[str]:
        """Chunks to be written and reported whatever their rows are.

        Those that the last run changed, if it died before it reported them to Dagster: no sensor knows of them. Once this run has
        lost its lease, also what it may have written since, and what the run that took over changed.
        """
        last = manifest.last_change(self.store, self.slug)
        if self.unsure is not None:
            return self.unsure.union(last.chunks)
        if _has_reported(self.context.instance, last.run_id):
            return frozenset()
        if last.chunks:
            self.context.log.info(
                f"run {last.run_id} did not report what it changed; its {len(last.chunks):,} chunks are reported again"
            )
        return frozenset(last.chunks)


def _has_reported(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether Dagster has a materialization of an index run."""
    found = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION, limit=1) if run_id else None
    return bool(found and found.records)


def _warn_of_many_partitions(context: dg.AssetExecutionContext, profiles: int) -> None:
    chunks = len(context.instance.get_dynamic_partitions(partitions.CHUNK))  # of all manifests: they share an asset
    if chunks * profiles > manifest.MANY_PARTITIONS:
        context.log.warning(
            f"{chunks:,} chunks of all manifests under {profiles} profiles are {chunks * profiles:,} partitions; more than "
            f"{manifest.MANY_PARTITIONS:,} make Dagster's UI slow. Set a larger DEPTH_ROWS_PER_CHUNK before you "
            "add the next manifest; those that were indexed keep their chunks"
        )


def _uri_of(slug: str, settings: Settings, store: Store) -> str:
    known = manifest.read_facts(store, slug)
    if known is not None:
        return str(known["uri"])
    for found in manifest.discover(settings):
        if found.slug == slug:
            return found.uri
    raise ManifestError(
        f"no manifest with the key {slug} in {settings.manifests_location}; put it there, or give its path or URL as `uri` in "
        "the run config"
    )
