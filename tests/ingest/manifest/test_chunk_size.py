"""How many rows a chunk has: by the manifest's size at first, and then for ever the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from depth_core.ingest import manifest
from depth_core.ingest.manifest import chunk_size
from depth_core.ingest.manifest.index import Index
from depth_core.settings import Settings
from depth_core.storage import Store

SLUG = "photos-12345678"
Make = Callable[..., Settings]


@pytest.fixture
def indexed(tmp_path: Path, store: Store, settings: Settings) -> Callable[..., Index]:
    """Indexes a manifest of so many rows after what the store has; returns the index that is then in the store."""

    def indexed(rows: int, size: int | None = None) -> Index:
        file = tmp_path / "photos.txt"
        file.write_text("# photos\n" + "".join(f"http://x/{n}.jpg\n" for n in range(rows)))
        read, before = manifest.read(str(file), settings), manifest.read_index(store, SLUG)
        size = size or manifest.rows_per_chunk(rows, 1, settings, before)
        assignment = manifest.assign_chunks(read, before, slug=SLUG, rows_per_chunk=size)
        manifest.write_chunks(store, SLUG, assignment, read, run_id="run")
        after = manifest.read_index(store, SLUG)
        assert after is not None
        return after

    return indexed


@pytest.mark.parametrize(
    ("rows", "profiles", "size"),
    [
        (1, 1, 1_000),
        (1_000_000, 500, 1_000),
        (1_000_001, 1, 1_000),
        (40_000_000, 1, 1_000),
        (40_000_000, 4, 4_000),
        (40_000_000, 6, 5_000),
        (50_000_000, 1, 1_500),  # 50,000 chunks of 1,000 would not be under the limit
        (10_000_000_000, 4, 100_000),
    ],
)
def test_it_is_1000_up_to_a_million_rows_then_a_round_number_that_keeps_partitions_few(
    rows: int, profiles: int, size: int
) -> None:
    assert chunk_size.by_size(rows, profiles) == size


@pytest.mark.parametrize("rows", [1_000_001, 3_333_333, 40_000_000, 400_000_000])
@pytest.mark.parametrize("profiles", [1, 4, 7, 12])
def test_chunks_times_profiles_stay_below_the_limit(rows: int, profiles: int) -> None:
    assert -(-rows // chunk_size.by_size(rows, profiles)) * profiles < manifest.MANY_PARTITIONS


def test_a_setting_counts_for_a_new_manifest_and_for_one_that_had_no_rows_yet(make_settings: Make) -> None:
    configured = make_settings(rows_per_chunk=7)
    assert manifest.rows_per_chunk(40_000_000, 6, configured, None) == 7
    assert manifest.rows_per_chunk(40_000_000, 6, configured, Index.empty()) == 7


def test_a_manifest_keeps_the_size_of_its_first_index_however_large_it_grows(
    indexed: Callable[..., Index], settings: Settings, make_settings: Make, store: Store
) -> None:
    index = indexed(5, size=2)
    assert index.rows_per_chunk == 2
    assert manifest.rows_per_chunk(40_000_000, 6, settings, index) == 2
    assert manifest.rows_per_chunk(40_000_000, 6, make_settings(rows_per_chunk=7), index) == 2
    assert indexed(9).rows_by_chunk() == {f"{SLUG}-{n:05d}": rows for n, rows in enumerate([2, 2, 2, 2, 1])}
    facts = manifest.read_facts(store, SLUG)
    assert facts is not None
    assert facts["rows_per_chunk"] == 2


class TestAnIndexOfAnEarlierVersion:
    @pytest.fixture
    def before(self, indexed: Callable[..., Index], store: Store) -> Callable[..., Index]:
        """An index as earlier versions wrote it, which says no size."""

        def before(rows: int, size: int) -> Index:
            indexed(rows, size)
            path = Path(store.path(f"manifests/{SLUG}/index.parquet"))
            pd.read_parquet(path).to_parquet(path, index=False)
            index = manifest.read_index(store, SLUG)
            assert index is not None
            assert index.rows_per_chunk == 0
            return index

        return before

    def test_keeps_what_its_full_chunks_have(self, before: Callable[..., Index], make_settings: Make) -> None:
        assert manifest.rows_per_chunk(40_000_000, 6, make_settings(rows_per_chunk=7), before(11, 4)) == 4

    def test_keeps_the_setting_or_the_default_of_then_when_its_one_chunk_shows_none(
        self, before: Callable[..., Index], settings: Settings, make_settings: Make
    ) -> None:
        index = before(3, 4)
        assert manifest.rows_per_chunk(40_000_000, 6, make_settings(rows_per_chunk=7), index) == 7
        assert manifest.rows_per_chunk(40_000_000, 6, settings, index) == 1_000

    def test_keeps_more_than_the_default_when_its_one_chunk_has_more(
        self, before: Callable[..., Index], settings: Settings
    ) -> None:
        assert manifest.rows_per_chunk(40_000_000, 6, settings, before(1_200, 5_000)) == 1_200
