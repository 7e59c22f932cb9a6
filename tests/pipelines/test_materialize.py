"""One manifest in one process: chunks that are complete and unchanged are left alone, and what is printed is true."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from rich.console import Console
from support.http_server import HttpServer

from depth_core import completeness, layout
from depth_core.completeness import Reason
from depth_core.errors import ConfigurationError, ModelUnavailableError, StoreError
from depth_core.inference import checkpoints
from depth_core.ingest import manifest, sources
from depth_core.output import records
from pipelines.materialize.report import Report, print_report
from pipelines.materialize.runner import RunFailedError, materialize
from pipelines.partitions import MANIFEST

SETTINGS = {"rows_per_chunk": 2, "download_attempts": 1}


@pytest.fixture
def overrides() -> dict[str, Any]:
    return SETTINGS


def titled(house, count: int) -> Path:
    """A manifest of so many photos, two in a chunk, each with a title."""
    lines = [f"{n},{house.photo(f'{n}.jpg', n)},title {n}" for n in range(count)]
    return house.manifest("shots.csv", "id,image_url,title", *lines)


@pytest.fixture
def photos(house) -> Path:
    """Of three photos in two chunks."""
    return titled(house, 3)


def bring_up_to_date(house, path: Path) -> Report:
    return materialize(str(path), "preview", house.depthline, house.instance)


CHUNKS_BEGIN = re.compile(r"chunks? (\d+)(?: to (\d+))? of \d+: fetching images(?: \((.*)\))?")


def worked_on(house, path: Path) -> dict[tuple[int, ...], str | None]:
    """Brings a manifest up to date; the numbers of the chunks of each run that made depth maps, and why as it is said."""
    steps: list[str] = []
    runs_before = house.instance.get_runs_count()
    materialize(str(path), "preview", house.depthline, house.instance, on_step=steps.append)
    runs = house.instance.get_runs(limit=house.instance.get_runs_count() - runs_before)
    chunks: dict[str, list[tuple[int, ...]]] = {job: [] for job in ("ingest_chunk", "depth_maps_for_chunk")}
    for run in runs:
        if run.job_name in chunks:
            ends = (run.tags[f"dagster/asset_partition_range_{end}"].partition("|")[0] for end in ("start", "end"))
            first, last = (int(chunk.rpartition("-")[2]) for chunk in ends)
            chunks[run.job_name].append(tuple(range(first, last + 1)))
    said = {}
    for found in filter(None, map(CHUNKS_BEGIN.fullmatch, steps)):
        said[tuple(range(int(found[1]) - 1, int(found[2] or found[1])))] = found[3]
    assert chunks["ingest_chunk"] == chunks["depth_maps_for_chunk"]
    assert sorted(chunks["ingest_chunk"]) == sorted(said)
    return said


def reasons(house, path: Path) -> list[Reason | None]:
    """Why each chunk is not complete, by the store alone."""
    profile, settings = house.depthline.profile("preview"), house.depthline.settings()
    there = {"checkpoint": checkpoints.resolve(profile.parameters.spec, settings), "store": house.store, "settings": settings}
    return [completeness.check(chunk, profile, **there).reason for chunk in house.chunks(path)]


def shown(house, report: Report) -> dict[str, str]:
    """The printed table, by the names of its rows."""
    console = Console(file=io.StringIO(), width=300)
    print_report(report, "preview", house.store, console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return {name: rest.strip() for name, _, rest in (line.partition("  ") for line in lines) if name.strip()}


def _title(house, photos: Path) -> None:
    photos.write_text(photos.read_text().replace("title 1", "another"))


_NEW = itertools.count(99)


def _photo(house, photos: Path) -> None:
    """Another one each time."""
    house.photo("1.jpg", next(_NEW))


def _photo_gone(house, photos: Path) -> None:
    (house.folder / "photos" / "1.jpg").unlink()


def _of(house, name: str) -> str:
    frame = house.records()
    (value,) = frame.loc[frame["row_id"] == "1", name]
    return str(value)


def _depth_map(house, photos: Path) -> None:
    house.store.delete(f"{_of(house, 'folder')}/depth.png")


def _records(house, photos: Path) -> None:
    house.store.delete(layout.records_key("preview", _of(house, "chunk")))


def _stale_records(house, photos: Path) -> None:
    frame = records.read_chunk(house.store, "preview", _of(house, "chunk"))
    records.write(house.store, frame.assign(carried="{}"), "preview", frame["chunk"][0])


def _page(house, photos: Path) -> None:
    house.store.delete(layout.gallery_page_key("preview", _of(house, "chunk")))


def _killed(house, photos: Path) -> None:
    """As a run leaves it that was killed before the gallery."""
    frame = records.read_chunk(house.store, "preview", _of(house, "chunk"))
    records.write(house.store, frame.assign(run_id="killed"), "preview", frame["chunk"][0])


class Watch:
    """A meter that notes what it is shown."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, int, list[int]]] = []

    def start(self, label: str, total: int) -> None:
        self.shown.append((label, total, []))

    def at(self, done: int) -> None:
        self.shown[-1][2].append(done)


class TestAManifestThatIsUpToDate:
    """What the tests share is of two chunks, and complete: a test that changes something brings it up to date.

    After a test that failed, which may have left it damaged, each test has an installation of its own.
    """

    @pytest.fixture(scope="class")
    @classmethod
    def made(cls, furnish) -> tuple[Any, Path, Watch, dict[str, str]]:
        """An installation, its manifest, and what was shown of its first materialization: meanwhile and at the end."""
        house, watch = furnish(**SETTINGS), Watch()
        path = titled(house, 3)
        report = materialize(str(path), "preview", house.depthline, house.instance, meter=watch)
        return house, path, watch, shown(house, report)

    @pytest.fixture(scope="class")
    @classmethod
    def failed_before(cls, request: pytest.FixtureRequest) -> int:
        """How many tests had failed when this class began."""
        return request.session.testsfailed

    @pytest.fixture
    def complete(self, made, failed_before: int, furnish, request: pytest.FixtureRequest) -> tuple[Any, Path]:
        if request.session.testsfailed == failed_before:
            return made[:2]
        house = furnish(**SETTINGS)
        path = titled(house, 3)
        bring_up_to_date(house, path)
        return house, path

    def test_its_first_run_showed_with_each_step_how_many_rows_were_done(self, made) -> None:
        _, _, watch, table = made
        assert [(label, rows) for label, rows, _ in watch.shown] == [
            (f"chunks 1 to 2 of 2: {what}", 3) for what in ("fetching", "depth maps")
        ]
        for label, rows, done in watch.shown:
            assert done == list(range(1, rows + 1)), label
        assert table["made now"].startswith("3 depth maps, ")

    def test_a_second_run_leaves_every_chunk_alone_and_says_so(self, complete) -> None:
        house, path = complete
        before, runs = house.records(manifest=str(path), profile="preview"), house.instance.get_runs_count()
        again = bring_up_to_date(house, path)
        assert house.instance.get_runs_count() == runs + 1, "the index alone"
        assert again.left_alone == again.chunks
        assert again.records.equals(before)
        table = shown(house, again)
        assert table["rows"].startswith("3 of ")
        assert table["succeeded"] == "3"
        assert table["made now"] == "nothing was left to do"
        assert table["made before"] == "3 depth maps; not made again"
        assert table["left alone"] == "2 of 2 chunks: complete and unchanged"

    def test_every_change_to_a_chunk_is_noticed_and_one_run_works_on_that_chunk_alone(self, complete) -> None:
        house, path = complete
        noticed = []
        for change in (_page, _stale_records, _depth_map, _records, _photo, _title):  # each reason outranks the earlier ones
            change(house, path)
            if change is _title:
                house.index(path)
            noticed.append(reasons(house, path))
        assert noticed == [
            [reason, None]
            for reason in (
                Reason.NO_GALLERY,
                Reason.RECORDS_CHANGED,
                Reason.DEPTH_MAPS_CHANGED,
                Reason.NO_RECORDS,
                Reason.SOURCES_CHANGED,
                Reason.ROWS_CHANGED,
            )
        ]
        assert worked_on(house, path) == {(0,): Reason.ROWS_CHANGED}
        assert reasons(house, path) == [None, None]
        frame = house.records()
        assert [json.loads(carried)["title"] for carried in frame["carried"]] == ["title 0", "another", "title 2"]
        assert all(house.store.size(f"{folder}/depth.png") for folder in frame["folder"])

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (_page, Reason.NO_GALLERY),
            (_stale_records, Reason.RECORDS_CHANGED),
            (_depth_map, Reason.DEPTH_MAPS_CHANGED),
            (_records, Reason.NO_RECORDS),
            (_killed, None),  # the store alone cannot know
            (_photo, Reason.SOURCES_CHANGED),
            (_photo_gone, Reason.SOURCES_CHANGED),  # last: it stays away, and the others need it
        ],
    )
    def test_only_the_chunk_in_which_something_changed_is_worked_on(
        self, complete, change: Callable[[Any, Path], None], reason: Reason | None
    ) -> None:
        house, path = complete
        change(house, path)
        assert worked_on(house, path) == {(0,): reason}
        assert worked_on(house, path) == {}
        assert reasons(house, path) == [None, None]
        assert all(house.store.size(f"{folder}/depth.png") for folder in house.records()["folder"].dropna())

    def test_a_profile_that_was_edited_changes_every_chunk(self, complete) -> None:
        house, path = complete
        profiles = house.folder / "profiles.toml"
        profiles.write_text(profiles.read_text().replace("resolutionLowerLimit = 256", "resolutionLowerLimit = 320", 1))
        assert worked_on(house, path) == {(0, 1): Reason.DEPTH_MAPS_CHANGED}
        assert reasons(house, path) == [None, None]

    def test_a_manifest_that_grew_updates_the_chunks_whose_rows_changed(self, complete) -> None:
        house, path = complete
        with path.open("a") as file:
            file.write(f"5,{house.photo('5.jpg', 5)},new\n6,{house.photo('6.jpg', 6)},new\n")
        assert worked_on(house, path) == {(1, 2): Reason.ROWS_CHANGED}
        assert len(house.records()) == 5
        assert reasons(house, path) == [None, None, None]

    def test_chunks_that_lost_some_or_all_of_their_rows_are_worked_on_once(self, complete) -> None:
        house, path = complete
        kept = [line for line in path.read_text().splitlines(keepends=True) if line[0] not in "025"]
        path.write_text("".join(kept))
        assert worked_on(house, path) == {(0, 1): Reason.ROWS_CHANGED}
        assert worked_on(house, path) == {}
        assert len(house.records()) == len(kept) - 1


@pytest.mark.parametrize("overrides", [SETTINGS | {"rows_per_chunk": 1, "partitions_per_run": 2}])
def test_neighbouring_chunks_share_a_run_and_its_model_and_no_run_has_more_than_the_setting(house, opened) -> None:
    path = titled(house, 5)
    assert worked_on(house, path) == {(0, 1): None, (2, 3): None, (4,): None}
    assert opened == ["tiny"] * 3
    assert len(house.records()) == 5
    for number in (0, 2, 3):
        house.photo(f"{number}.jpg", 50 + number)
    assert worked_on(house, path) == {(0,): Reason.SOURCES_CHANGED, (2, 3): Reason.SOURCES_CHANGED}
    assert worked_on(house, path) == {}


@pytest.mark.parametrize("overrides", [SETTINGS | {"rows_per_chunk": 1}])
def test_a_chunk_that_fails_is_named_and_its_neighbours_are_done(house, monkeypatch) -> None:
    write, path = sources.write_table, titled(house, 4)

    def refuses(store, chunk, table) -> None:
        if chunk.endswith("-00001"):
            raise StoreError("cannot write: the bucket answers 503")
        write(store, chunk, table)

    with monkeypatch.context() as patch:
        patch.setattr(sources, "write_table", refuses)
        with pytest.raises(RunFailedError, match=r"ingest_chunk failed for .*-00000 to .*-00003: 1 of 4 .*-00001: cannot write"):
            bring_up_to_date(house, path)
    assert reasons(house, path) == [None, Reason.NO_SOURCES, None, None]
    assert worked_on(house, path) == {(1,): Reason.NO_SOURCES}


def test_images_a_second_count_the_time_in_which_two_chunks_were_made_once() -> None:
    report = Report("shots.csv", [], made=10, failed=4, spans=[(104.0, 112.0), (100.0, 110.0), (120.0, 122.0)])
    assert report.images_per_second == 1.0


def test_a_chunk_that_nobody_worked_on_is_not_complete(house, photos: Path) -> None:
    house.index(photos)
    assert reasons(house, photos) == [Reason.NO_ROWS, Reason.NO_ROWS]
    house.run("ingest_chunk", house.chunks(photos)[0])
    assert reasons(house, photos) == [Reason.NO_RECORDS, Reason.NO_ROWS]


def test_an_instance_that_knows_nothing_of_a_chunk_makes_it_known(house) -> None:
    path = titled(house, 1)
    bring_up_to_date(house, path)
    with dg.DagsterInstance.ephemeral() as another:
        house.instance = another
        assert worked_on(house, path) == {(0,): None}
        assert worked_on(house, path) == {}


@pytest.mark.parametrize("overrides", [SETTINGS | {"rows_per_chunk": 4}])
def test_chunks_with_failures_that_may_pass_are_tried_again_and_others_are_not(house) -> None:
    (house.folder / "page.jpg").write_text("<html>")
    rows = [house.folder / "page.jpg", "missing.jpg", "", "no\turl", "http://127.0.0.1:9/gone.jpg", house.photo("a.jpg")]
    path = house.manifest("shots.csv", "image_url,title", *(f"{row},x" for row in rows))
    assert worked_on(house, path) == {(0, 1): None}
    assert worked_on(house, path) == {(1,): Reason.SOURCES_CHANGED}


def test_chunks_in_which_all_failed_are_left_alone_and_their_failed_checks_are_named_again_once(house) -> None:
    (house.folder / "page.jpg").write_text("<html>")
    path = house.manifest("shots.csv", "image_url", "../page.jpg", "missing.jpg", "gone.jpg")
    first = bring_up_to_date(house, path)
    table = shown(house, first)
    assert table["failed"] == "3"
    assert table["made now"] == "no depth map"
    assert "made before" not in table
    assert any("failure_rate" in check for check in first.failed_checks)
    again = bring_up_to_date(house, path)
    assert again.left_alone == again.chunks
    assert sorted(again.failed_checks) == sorted(first.failed_checks)


def test_photos_that_stand_in_several_chunks_count_once(house) -> None:
    one, other = (str(house.photo(f"{n}.jpg", n)) for n in range(2))
    path = house.manifest("shots.csv", "image_url", one, other, one)
    report = bring_up_to_date(house, path)
    table = shown(house, report)
    assert len(report.chunks) == 2
    assert table["succeeded"] == "3"
    assert table["made now"].startswith("2 depth maps, ")
    assert "made before" not in table


@pytest.mark.parametrize("content", [None, "title\nno urls here\n"])
def test_a_manifest_that_could_never_be_read_leaves_no_partition(house, content: str | None) -> None:
    path = house.folder / "mistyped.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(RunFailedError, match=r"mistyped\.csv"):
        bring_up_to_date(house, path)
    assert house.instance.get_dynamic_partitions(MANIFEST) == []


def test_a_manifest_that_was_read_before_keeps_its_partition(house) -> None:
    photos = house.manifest("shots.csv", "image_url", "a.jpg")
    house.index(photos)
    os.rename(photos, house.folder / "elsewhere.csv")
    with pytest.raises(RunFailedError, match="does not exist"):
        bring_up_to_date(house, photos)
    assert house.instance.get_dynamic_partitions(MANIFEST) == [manifest.slug(str(photos))]


def test_a_profile_that_is_not_there_is_said_before_anything_is_done(house, photos: Path) -> None:
    with pytest.raises(ConfigurationError, match="colourful"):
        materialize(str(photos), "colourful", house.depthline, house.instance)
    assert house.instance.get_runs_count() == 0


def test_weights_that_cannot_be_had_are_told_before_anything_is_fetched(house, photos: Path) -> None:
    (house.folder / "profiles.toml").write_text('[preview]\ncheckpoint = "no-weights"\n[preview.parameters]\nmodel = "small"\n')
    with pytest.raises(ModelUnavailableError, match="no weights at no-weights"):
        bring_up_to_date(house, photos)
    assert house.instance.get_runs_count() == 0


def test_names_and_messages_of_strangers_cannot_speak_to_the_terminal(house) -> None:
    path = house.manifest(
        "shots.csv", "id,image_url", "\x1b[31mred,http://me:secret@127.0.0.1:9/a?token=abc", "[bold],\x1b]0;x\x07.jpg"
    )
    console = Console(file=io.StringIO(), width=300)
    print_report(bring_up_to_date(house, path), "preview", house.store, console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", said)
    assert r"\x1b[31mred" in said
    assert "secret" not in said
    assert "abc" not in said


def test_the_secrets_of_a_manifests_url_are_in_no_run_and_no_record(house) -> None:
    house.depthline.overrides["allow_private_hosts"] = True
    photo = house.photo("a.jpg")
    house.manifest("shots.csv", "image_url", photo.name)
    photo.rename(house.folder / "manifests" / photo.name)
    with HttpServer() as server:
        server.on_others(server.files(house.folder / "manifests"))
        url = f"{server.url}/shots.csv?token=hunter3".replace("127.0.0.1", "ann:hunter2@127.0.0.1")
        report = materialize(url, "preview", house.depthline, house.instance)
    assert report.records["status"].tolist() == ["succeeded"]
    for run in house.instance.get_runs():
        assert "hunter" not in dg.serialize_value(run)
        assert all("hunter" not in dg.serialize_value(entry) for entry in house.instance.all_logs(run.run_id))
    assert report.records["manifest"].tolist() == [url.replace("ann:hunter2@", "").replace("hunter3", "***")]
    assert "hunter" not in report.records["file"][0]
    assert len(house.records(manifest=url)) == 1
