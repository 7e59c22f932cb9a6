"""The checks of `artwork_records`: what must be true of a chunk's records and files.

They warn and do not block: a chunk in which every image failed still gets its records and its gallery.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import dagster as dg
import pandas as pd
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData
from PIL import Image

from depth_core import layout
from depth_core.display import shown_text
from depth_core.ingest import manifest
from depth_core.output import formats, large, records
from depth_core.output.outcomes import FAILED, SUCCEEDED
from depth_core.storage import Store
from pipelines import names, ranges
from pipelines.partitions import Partitions, chunk_and_profile
from pipelines.resources import DepthlineResource
from pipelines.step_failures import fails_in_one_line

SAMPLES = 5  # keys named in a failed check
READS_AT_ONCE = 16
READABLE, NOT_FLAT = "every_depth_map_is_readable", "no_depth_map_is_flat"


def _result(passed: bool, description: str, *, check_name: str | None = None, **metadata: Any) -> dg.AssetCheckResult:
    """A result; lists in its metadata are shown as Dagster's database may keep them, without secrets of URLs."""
    shown = {name: [shown_text(str(each)) for each in it] if isinstance(it, list) else it for name, it in metadata.items()}
    return dg.AssetCheckResult(
        passed=passed, description=description, check_name=check_name, severity=dg.AssetCheckSeverity.WARN, metadata=shown
    )


def every_row_has_a_record(rows: pd.DataFrame, frame: pd.DataFrame) -> dg.AssetCheckResult:
    """Every row of the chunk has exactly one record, and there are no others."""
    expected, found = rows["row_key"], frame["row_key"]
    missing = expected[~expected.isin(found)].tolist()
    surplus = found[~found.isin(expected) | found.duplicated()].tolist()
    return _result(
        not missing and not surplus,
        f"{len(expected):,} rows, {len(found):,} records; {len(missing):,} rows without one, {len(surplus):,} surplus records",
        missing=missing[:SAMPLES],
        surplus=surplus[:SAMPLES],
    )


def pictures_are_sound(frame: pd.DataFrame, store: Store) -> tuple[dg.AssetCheckResult, dg.AssetCheckResult]:
    """Reads the depth.png of every succeeded record once: is each readable, of the size that the record says, and not flat?"""
    good = frame[frame["status"] == SUCCEEDED].drop_duplicates("folder")

    def check(folder: str, width: int, height: int) -> tuple[str | None, bool]:
        """What is wrong with a picture's file, None if nothing is; and whether the picture has one gray value everywhere."""
        try:
            with Image.open(BytesIO(store.read(layout.file_key(folder, formats.PNG)))) as picture:
                with large.one_at_a_time(picture):
                    low, high = picture.getextrema()  # decodes all of it
                if picture.size != (width, height):
                    return f"{folder}: {picture.width} x {picture.height}, the record says {width} x {height}", low == high
        except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError on damaged chunks
            return f"{folder}: {error}", False
        return None, low == high

    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        checked = list(pool.map(check, good["folder"], good["output_width"], good["output_height"]))
    errors = [error for error, _ in checked if error]
    one_gray = pd.Series([flat for _, flat in checked], index=good.index, dtype=bool)
    flat = good[~(good["depth_max"] > good["depth_min"]) | one_gray]
    return (
        _result(
            not errors,
            f"{len(good):,} depth maps read, {len(errors):,} missing, damaged or of another size",
            check_name=READABLE,
            errors=errors[:SAMPLES],
        ),
        _result(
            flat.empty,
            f"{len(flat):,} of {len(good):,} depth maps are flat",
            check_name=NOT_FLAT,
            images=flat["image_url"].head(SAMPLES).tolist(),
        ),
    )


def failure_rate_is_bounded(frame: pd.DataFrame, bound: float) -> dg.AssetCheckResult:
    """The share of failed rows is at most the profile's max_failure_rate."""
    failed = frame[frame["status"] == FAILED]
    rate = len(failed) / len(frame) if len(frame) else 0.0
    return _result(
        rate <= bound,
        f"{len(failed):,} of {len(frame):,} rows failed ({rate:.1%}); the profile allows {bound:.1%}",
        rate=rate,
        bound=bound,
        by_kind=dg.MetadataValue.json({str(k): int(n) for k, n in failed["error_kind"].value_counts().items()}),
    )


def evaluate(context: dg.AssetCheckExecutionContext, check: Callable[[str, str], Sequence[dg.AssetCheckResult]]) -> None:
    """Records what `check` finds of each partition of a run, given its chunk and profile, as evaluations of that partition.

    As events, since Dagster records a result that is returned without a partition where a run has several. Raises at the end,
    with a list, when a partition could not be checked.
    """
    op, failed = context.op_execution_context, dict[str, Exception]()
    keys = ranges.keys_of(context)
    (asset,) = {key.asset_key for key in op.selected_asset_check_keys}
    selected = {key.name for key in op.selected_asset_check_keys}
    for key in keys:
        try:
            results = check(*chunk_and_profile(key))
        except Exception as error:  # noqa: BLE001 - one partition must not cost the others
            failed[key] = error
            continue
        target = _latest(context.instance, asset, key)
        for result in results:
            name = result.check_name or next(iter(selected))
            if name not in selected:
                continue
            op.log_event(
                dg.AssetCheckEvaluation(  # type: ignore[arg-type] # taken, and not said so
                    asset_key=asset,
                    check_name=name,
                    passed=result.passed,
                    metadata=result.metadata,
                    target_materialization_data=target,
                    severity=result.severity,
                    description=result.description,
                    blocking=False,
                    partition=key,
                )
            )
    if failed:
        raise ranges.failure(failed, len(keys), context.log)


def _latest(
    instance: dg.DagsterInstance, asset: dg.AssetKey, partition: str
) -> AssetCheckEvaluationTargetMaterializationData | None:
    """The materialization that a check of a partition speaks of: without it, Dagster's UI does not show that it passed."""
    which = dg.AssetRecordsFilter(asset, asset_partitions=[partition])
    for record in instance.fetch_materializations(which, limit=1).records:
        return AssetCheckEvaluationTargetMaterializationData(
            storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp
        )
    return None


def build(parts: Partitions) -> list[dg.AssetChecksDefinition]:
    @dg.asset_check(  # type: ignore[arg-type] # `evaluate` has recorded the results
        asset=names.ARTWORK_RECORDS, partitions_def=parts.pairs, description=every_row_has_a_record.__doc__
    )
    @fails_in_one_line
    def every_row_has_one_record(context: dg.AssetCheckExecutionContext, depthline: DepthlineResource) -> None:
        store = depthline.store()

        def check(chunk: str, profile: str) -> list[dg.AssetCheckResult]:
            return [every_row_has_a_record(manifest.read_rows(store, chunk), records.read_chunk(store, profile, chunk))]

        evaluate(context, check)

    described = {
        READABLE: "Every succeeded record has a depth.png that opens and has the size that the record says.",
        NOT_FLAT: "No succeeded depth map is flat, neither in the network's numbers nor in depth.png.",
    }

    @dg.multi_asset_check(
        specs=[
            dg.AssetCheckSpec(name, asset=names.ARTWORK_RECORDS, partitions_def=parts.pairs, description=text)
            for name, text in described.items()
        ]
    )
    @fails_in_one_line
    def depth_maps_are_sound(context: dg.AssetCheckExecutionContext, depthline: DepthlineResource) -> tuple[None, None]:
        store = depthline.store()
        evaluate(context, lambda chunk, profile: pictures_are_sound(records.read_chunk(store, profile, chunk), store))
        return None, None  # an output for each of the two

    @dg.asset_check(  # type: ignore[arg-type]
        asset=names.ARTWORK_RECORDS, partitions_def=parts.pairs, description=failure_rate_is_bounded.__doc__
    )
    @fails_in_one_line
    def failure_rate(context: dg.AssetCheckExecutionContext, depthline: DepthlineResource) -> None:
        store = depthline.store()

        def check(chunk: str, profile: str) -> list[dg.AssetCheckResult]:
            frame = records.read_chunk(store, profile, chunk)
            return [failure_rate_is_bounded(frame, depthline.profile(profile).max_failure_rate)]

        evaluate(context, check)

    return [every_row_has_one_record, depth_maps_are_sound, failure_rate]
