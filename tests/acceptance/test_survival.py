"""What must survive: kill -9 in the middle of a chunk, two runs of one chunk at once, a store that goes away."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import sys
import time
from io import BytesIO
from pathlib import Path

import dagster as dg
from PIL import Image
from support.waiting import eventually_of

from depth_core.output import depth_folder, formats, records
from depth_core.storage import DAY, PART_SUFFIX, PARTS

ROOT = Path(__file__).parents[2]

COUNT = 40
SOON = {"DEPTH_LEASE_SECONDS": "2"}  # whoever comes after a run that was killed waits for its lease to end


def sidecars(place) -> list[str]:
    return [key for key in place.store.keys("depth") if key.endswith(formats.SIDECAR)]


def assert_every_file_is_whole(place) -> None:
    """Every key of the store that claims to be complete is, and nothing half-written counts as a key."""
    store = place.store
    for key in sidecars(place):
        folder = key.removesuffix(f"/{formats.SIDECAR}")
        sidecar = depth_folder.read_sidecar(store, folder)
        assert sidecar is not None, key
        with Image.open(BytesIO(store.read(f"{folder}/depth.png"))) as picture:
            picture.load()
            assert picture.size == (sidecar["output"]["width"], sidecar["output"]["height"])
    parts = {path.parent for path in Path(store.root).rglob(f"*{PART_SUFFIX}")}  # Store.keys would hide them
    assert parts <= {Path(store.root) / PARTS}, "half-written files lie in one place alone, where they are found again"


def assert_one_record_per_row(place, rows: int, status: str = "succeeded") -> None:
    frame = records.read(place.store, profile="preview")
    assert len(frame) == rows
    assert frame["row_key"].is_unique
    assert set(frame["status"]) == {status}


def test_a_run_that_is_killed_again_and_again_is_finished_by_the_next(place, materialize) -> None:
    place.settings |= SOON
    manifest = place.manifest(place.photos(COUNT))
    draw = random.Random()
    done = 0
    for _ in range(2):
        process = place.start("-m", "pipelines.materialize", manifest)
        more = draw.randint(1, 4)  # depth maps; after a time a fast machine would have come to the end
        eventually_of(process, lambda enough=done + more: len(sidecars(place)) >= enough)
        time.sleep(draw.uniform(0, 0.05))
        process.kill()
        assert len(sidecars(place)) > done
        done = len(sidecars(place))
        assert_every_file_is_whole(place)
    written = {key: Path(place.store.path(key)).stat().st_mtime_ns for key in sidecars(place)}

    left = [*(Path(place.store.root) / PARTS).iterdir(), Path(place.store.root) / PARTS / f".by-hand{PART_SUFFIX}"]
    left[-1].write_bytes(b"ha")
    for part in left:
        os.utime(part, (time.time() - 2 * DAY,) * 2)

    last = materialize(manifest)

    assert last.status == 0, last.stdout[-3000:] + last.stderr[-3000:]
    assert not list(Path(place.store.root).rglob(f"*{PART_SUFFIX}")), "what killed writes left goes after a day"
    assert_one_record_per_row(place, COUNT)
    assert_every_file_is_whole(place)
    again = [key for key, at in written.items() if Path(place.store.path(key)).stat().st_mtime_ns != at]
    assert again == [], "what was complete has been computed again"
    assert not list(place.store.keys("journal"))


def test_an_interrupted_run_ends_with_one_line_holds_nothing_and_is_finished_by_the_next(place, materialize) -> None:
    manifest = place.manifest(place.photos(COUNT))
    process = place.start_afresh(sys.executable, "-m", "pipelines.materialize", manifest)
    eventually_of(process, lambda: sidecars(place))
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert said.splitlines()[-1] == "interrupted: run again to go on"
    assert "Traceback" not in said
    with dg.DagsterInstance.from_config(str(place.folder / "dagster")) as instance:
        assert {run.job_name: run.status for run in instance.get_runs()}["depth_maps_for_chunk"] == dg.DagsterRunStatus.FAILURE
        assert not instance.event_log_storage.get_concurrency_info("gpu").claimed_slots
    assert list((place.folder / "dagster" / "alive").iterdir()) == []
    made = {key: Path(place.store.path(key)).stat().st_mtime_ns for key in sidecars(place)}
    assert 0 < len(made) < COUNT
    assert materialize(manifest).status == 0
    assert_one_record_per_row(place, COUNT)
    assert {key: Path(place.store.path(key)).stat().st_mtime_ns for key in made} == made


def test_what_an_index_run_changed_before_it_was_killed_is_told_by_the_next(place, materialize) -> None:
    place.settings |= SOON
    photos = place.photos(2)
    manifest = place.manifest(photos[:1])
    assert materialize(manifest).status == 0
    place.manifest(photos)
    killed = place.start(
        "-c",
        "import os, signal, sys\n"
        "from pipelines import partitions\n"
        "from pipelines.materialize import command\n"
        "partitions.register_chunks = lambda *args: os.kill(os.getpid(), signal.SIGKILL)\n"
        "command.main(sys.argv[1], 'preview')",
        manifest,
    )
    assert killed.wait() == -signal.SIGKILL, killed.communicate()

    assert materialize(manifest).status == 0

    with dg.DagsterInstance.from_config(str(place.folder / "dagster")) as instance:
        reported = instance.fetch_materializations(dg.AssetKey("manifest_index"), limit=10, ascending=True).records
    assert [record.asset_materialization.metadata["changed chunks"].value for record in reported] == [1, 1]
    assert_one_record_per_row(place, 2)


def test_two_runs_of_one_chunk_at_once_leave_valid_files_and_one_complete_table(place) -> None:
    manifest = place.manifest(place.photos(24))
    both = []
    for home in ("dagster", "another-dagster"):  # in one instance the pool would let them run one after the other
        (place.folder / home).mkdir(exist_ok=True)
        shutil.copy(ROOT / "dagster.yaml", place.folder / home)
        place.settings["DAGSTER_HOME"] = str(place.folder / home)
        both.append(place.start("-m", "pipelines.materialize", manifest))
    outputs = [process.communicate(timeout=240)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert_every_file_is_whole(place)
    assert_one_record_per_row(place, 24)


def test_a_full_disk_fails_the_run_with_a_clear_error_and_the_next_run_goes_on(place, materialize) -> None:
    """The limit on a file's size stands in for a full disk: the system refuses the write in the middle of a file.

    It leaves room for Dagster's own database and for all but the 16 bits of a large photo's depth map.
    """
    profiles = place.folder / "profiles.toml"
    profiles.write_text(profiles.read_text().replace("[preview]\n", "[preview]\ndepth16 = true\n", 1))
    (small,) = place.photos(1)
    large = small.with_name("large.jpg")
    with Image.open(small) as photo:
        photo.resize((3000, 2000), Image.Resampling.BICUBIC).save(large, quality=90)
    manifest = place.manifest([small, large])
    limited = place.start(
        "-c",
        "import resource, sys\n"
        "from pipelines.materialize import command\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3 * 2**20,) * 2)\n"
        "command.main(sys.argv[1], 'preview')",
        manifest,
    )
    said, _ = limited.communicate()
    assert limited.returncode == 1, said[-3000:]
    assert re.search(r"cannot write \S*/store/depth/\S*: OSError: \S+ \S+ File too large", said), said[-3000:]
    assert_every_file_is_whole(place)
    assert materialize(manifest).status == 0
    assert_one_record_per_row(place, 2)
    assert_every_file_is_whole(place)


def test_a_store_that_cannot_be_used_is_one_clear_error(place, materialize) -> None:
    if os.geteuid() == 0:
        blocked = place.folder / "store"
        blocked.write_text("a file where the store's folder should be")
    else:
        (place.folder / "store").mkdir(mode=0o500)
    failed = materialize(place.manifest(place.photos(1)))
    assert failed.status == 1
    assert re.search(r"cannot (read|write) .*/store", failed.stderr)
    assert "Traceback" not in failed.stdout + failed.stderr
