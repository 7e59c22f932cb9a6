"""The `depthline` command as people run it: exit statuses, what is printed, what lies in the folder afterwards."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from support import servers
from support.waiting import eventually_of
from typer.testing import CliRunner, Result

from depth_core import terminal
from depth_core.catalog import MODELS
from depth_core.cli import commands
from depth_core.inference import checkpoints
from depth_core.storage import Store


@pytest.fixture
def here(place, monkeypatch: pytest.MonkeyPatch):
    """The command without a process of its own, for the many small cases: (arguments) -> result."""
    monkeypatch.chdir(place.folder)
    for name, value in place.environment.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str | Path) -> Result:
        for name, value in place.settings.items():  # those of the test itself
            monkeypatch.setenv(name, value)
        done = CliRunner().invoke(commands.app, [str(argument) for argument in arguments])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception  # a process would show a trace
        return done

    return run


@pytest.fixture(scope="module")
def bucket(s3_endpoint: str) -> tuple[str, dict[str, object]]:
    """A bucket: its URL and what the store must know to reach it."""
    endpoint = {"endpoint_url": s3_endpoint, "region_name": "us-east-1"}
    return f"s3://{servers.bucket(s3_endpoint)}/holiday", {"key": "x", "secret": "x", "client_kwargs": endpoint}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_photos_folders_and_patterns_become_flat_files_and_a_second_run_makes_nothing_again(place, here) -> None:
    first, second, third = place.photos(3)
    folder, deep = place.folder / "folder", place.folder / "deep" / "er"
    folder.mkdir()
    deep.mkdir(parents=True)
    shutil.move(second, folder / "beach.JPG")
    (folder / "notes.txt").write_text("not meant")
    shutil.move(third, deep / "hill.jpg")
    out = place.folder / "out"

    arguments = ("map", first, folder, "deep/**/*.jpg", "--out", out, "--also", "depth16.png", "--resolution", "256")

    done = place.run("depthline", *arguments)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 depth maps made in" in done.stdout
    assert done.stderr == ""
    assert names(out) == sorted(
        f"{stem}.{name}" for stem in ("0000", "beach", "hill") for name in ("depth.png", "depth16.png", "depth.json")
    )
    with Image.open(out / "hill.depth.png") as picture:
        assert (picture.mode, picture.size) == ("L", (320, 240))
        low, high = picture.getextrema()
        assert (low, high) == (0, 255)
    assert json.loads((out / "hill.depth.json").read_text())["parameters"]["model"] == "tiny"

    written = {name: (out / name).stat().st_mtime_ns for name in names(out)}
    again = here(*arguments)
    assert again.exit_code == 0
    assert "3 of 3 are there already" in again.stdout
    assert "0 depth maps made" in again.stdout
    assert {name: (out / name).stat().st_mtime_ns for name in names(out)} == written

    forced = here(*arguments, "--force")
    assert "3 depth maps made" in forced.stdout
    assert all((out / name).stat().st_mtime_ns > at for name, at in written.items())


def test_what_is_not_as_asked_is_made_again_and_the_rest_is_not(place, here) -> None:
    kept, changed = place.photos(2)
    out = place.folder / "out"
    here("map", kept, changed, "--out", out)
    before = {name: (out / name).stat().st_mtime_ns for name in names(out)}
    Image.new("RGB", (64, 48), "white").save(changed)
    changed_only = here("map", kept, changed, "--out", out, "--overwrite")
    assert "1 of 2 are there already" in changed_only.stdout
    assert "1 depth map made" in changed_only.stdout
    assert (out / "0000.depth.png").stat().st_mtime_ns == before["0000.depth.png"]
    with Image.open(out / "0001.depth.png") as picture:
        assert picture.size == (64, 48)
    (out / "0000.depth.png").unlink()
    lost = here("map", kept, changed, "--out", out)
    assert "1 depth map made" in lost.stdout
    inverted = here("map", kept, changed, "--out", out, "--invert")
    assert "2 depth maps made" in inverted.stdout


def test_a_depth_map_of_another_photo_is_kept_unless_it_may_be_overwritten(place, here) -> None:
    first, second = place.photos(2)
    one, other = place.folder / "one" / "p.jpg", place.folder / "other" / "p.jpg"
    for photo, path in ((first, one), (second, other)):
        path.parent.mkdir()
        shutil.move(photo, path)
    out = place.folder / "out"

    def of(name: str) -> str:
        return json.loads((out / f"{name}.depth.json").read_text())["sourceSha256"]

    here("map", one, "--out", out)
    made_of_one = of("p")
    beside = here("map", other, "--out", out)
    assert beside.exit_code == 0
    assert f"{other} becomes p-2.depth.png: p.depth.png is there, of another photo" in beside.stdout
    assert "--overwrite" in beside.stdout
    assert of("p") == made_of_one != of("p-2")

    for both in ((one, other), (other, one)):
        again = here("map", *both, "--out", out)
        assert "2 of 2 are there already" in again.stdout, "each finds its own, in whatever order"
        assert "becomes" not in again.stdout
    assert len(names(out)) == 4

    replaced = here("map", other, "--out", out, "--overwrite")
    assert "1 depth map made" in replaced.stdout
    assert of("p") == of("p-2") != made_of_one


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (["--also", "depth16.png"], []),
        ([], ["--also", "depth16.png"]),
        ([], ["--invert"]),
        (["--also", "depth16.png", "--invert"], ["--network-size", "--resolution", "320"]),
    ],
    ids=lambda options: " ".join(options) or "none",
)
def test_other_options_neither_replace_nor_remove_what_is_there(place, here, first: list[str], then: list[str]) -> None:
    (photo,) = place.photos(1)
    out = place.folder / "out"
    here("map", photo, "--out", out, *first)
    made = contents(out)

    done = here("map", photo, "--out", out, *then)

    assert "1 depth map made" in done.stdout
    assert f"{photo} becomes 0000-2.depth.png: 0000.depth.png is there, made with other options" in done.stdout
    both = contents(out)
    assert both.items() >= made.items()
    assert {"0000-2.depth.png", "0000-2.depth.json"} <= both.keys()
    assert ("0000-2.depth16.png" in both) == ("--also" in then)
    for options in (first, then):
        again = here("map", photo, "--out", out, *options)
        assert "1 of 1 are there already" in again.stdout, "each finds its own"
        assert "becomes" not in again.stdout
    assert contents(out) == both


def test_what_may_be_overwritten_leaves_no_file_of_the_earlier_run_beside_it(place, here) -> None:
    (photo,) = place.photos(1)
    out = place.folder / "out"
    here("map", photo, "--out", out, "--also", "depth16.png", "--invert")
    (out / "0000.depth.tiff").write_bytes(b"somebody's own")
    here("map", photo, "--out", out, "--overwrite")
    assert names(out) == ["0000.depth.json", "0000.depth.png", "0000.depth.tiff"]


def test_a_picture_of_which_nothing_is_known_is_kept(place, here) -> None:
    (photo,) = place.photos(1)
    out = place.folder / "out"
    here("map", photo, "--out", out, "--also", "depth16.png")
    (out / "0000.depth.json").unlink()
    kept = contents(out)
    done = here("map", photo, "--out", out, "--invert")
    assert "0000.depth.png exists without a depth.json that names its photo" in done.stdout
    assert contents(out).items() >= kept.items()
    (out / "0000-2.depth.json").write_text("{")
    assert "becomes 0000-3" in here("map", photo, "--out", out, "--invert").stdout or (out / "0000-3.depth.png").exists()


def test_folders_are_looked_through_and_keep_their_tree(place, here) -> None:
    photos = place.photos(5)
    top = place.folder / "holiday"
    for photo, name in zip(photos, ("a.jpg", "rome/a.jpg", "rome/day 2/b.jpg", ".trash/c.jpg", "rome/.d.jpg"), strict=True):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(photo, top / name)
    (top / "rome" / "back").symlink_to(top)
    (top / "rome" / "again").symlink_to("day 2")
    out = top / "maps"

    done = here("map", top, "--out", out)

    assert done.exit_code == 0, done.output
    assert "3 depth maps made" in done.stdout
    made = sorted(name for name in contents(out) if name.endswith(".png"))
    assert made == ["a.depth.png", "rome/a.depth.png", "rome/day 2/b.depth.png"]
    assert not (out / ".parts").exists(), "nothing of ours is left between people's files"
    for name in ("a", "rome/a"):
        assert json.loads((out / f"{name}.depth.json").read_text())["sourceName"] == str(top / f"{name}.jpg")
    again = here("map", top, top / "rome" / "*.jpg", "--out", out)
    assert "3 of 3 are there already" in again.stdout, "a photo that two arguments name is one photo, maps are none"


def test_a_link_to_a_folder_elsewhere_is_followed(place, here) -> None:
    (photo,) = place.photos(1)
    (place.folder / "album").mkdir()
    (place.folder / "album" / "linked").symlink_to(photo.parent)
    done = here("map", "album", "--out", "out")
    assert "1 depth map made" in done.stdout
    assert "linked/0000.depth.png" in contents(place.folder / "out")


def test_pictures_that_are_not_read_are_counted_at_the_end(place, here) -> None:
    (photo,) = place.photos(1)
    for name in ("1.HEIC", "2.heic", "sub/3.heic", "4.CR2", "notes.txt", "film.mov"):
        path = photo.parent / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    done = here("map", photo.parent, "--out", "out")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-2:] == ["1 depth map made in out", "skipped: 3 HEIC, 1 CR2: not read"]
    photo.unlink()
    nothing = here("map", photo.parent, "--out", "out")
    assert nothing.exit_code == 2
    assert nothing.stderr == f"error no photo at {photo.parent}; what is there is not read: 3 HEIC, 1 CR2\n"


def test_what_has_the_name_of_a_photo_and_cannot_be_one_is_counted_too(place, here) -> None:
    (photo,) = place.photos(1)
    (photo.parent / "gone.jpg").symlink_to("nowhere")
    done = here("map", photo.parent, "--out", "out")
    assert done.stdout.splitlines()[-1] == "skipped: 1 link that leads nowhere: not read"


def test_files_that_may_be_photos_by_another_name_are_told_with_their_names(place, here) -> None:
    photos = place.photos(6)
    folder = photos[0].parent
    here("map", photos[0], "--out", folder)
    own = "named like a depth map"
    photos[1].rename(folder / "x.depth.png")
    for photo, name in zip(photos[2:], ("a", "b", "c", "d"), strict=True):
        photo.rename(folder / name)
    done = here("map", folder, "--out", "out")
    assert done.exit_code == 0, done.output
    skipped = f"4 without suffix (a, b, c, ...), 1 {own} (x.depth.png)"
    assert done.stdout.splitlines()[-2:] == ["1 depth map made in out", f"skipped: {skipped}: not read"]
    assert f"skipped: 1 {own} (x.depth.png): not read" in here("map", folder / "*.*", "--out", "out").stdout
    named = here("map", folder / "x.depth.png", folder / "a", "--out", "out")
    assert "2 depth maps made" in named.stdout, "a file that is named itself is taken"
    photos[0].unlink()
    assert here("map", folder, "--out", "out").stderr == f"error no photo at {folder}; what is there is not read: {skipped}\n"


def test_names_of_any_length_become_depth_maps_and_what_cannot_be_named_fails_alone(place, here) -> None:
    photos = place.photos(5)
    longest, twin, long = "写" * 83 + "ab", "写" * 83 + "ac", "写" * 76
    for photo, stem in zip(photos, (longest, twin, long, "taken", "plain"), strict=True):
        photo.rename(photo.with_name(f"{stem}.jpg"))
    out = place.folder / "out"
    (out / "taken.depth.png").mkdir(parents=True)
    (out / "taken.depth.png" / "somebody's").write_text("own")
    done = here("map", photos[0].parent, "--out", out, "--overwrite")
    assert done.exit_code == 1, done.output
    assert "4 depth maps made" in done.stdout
    assert re.search(r"internal .*taken\.jpg: cannot write .*taken\.depth\.png: .*; rename the photo", done.stdout)
    made = [name for name in names(out) if name.endswith(".depth.json")]
    assert f"{long}.depth.json" in made
    assert len([name for name in made if re.fullmatch(r"写+-[0-9a-f]{8}\.depth\.json", name)]) == 2
    assert max(len(name.encode()) for name in names(out)) <= 255
    (out / "taken.depth.png" / "somebody's").unlink()
    assert "4 of 5 are there already" in here("map", photos[0].parent, "--out", out, "--overwrite").stdout


def test_an_argument_that_is_no_possible_name_is_told_as_such(here) -> None:
    done = here("map", "x" * 5000, "--out", "out")
    assert done.exit_code == 2
    assert done.stderr.startswith("error no photo at xxx")


def test_names_and_messages_cannot_speak_to_the_terminal(place, here) -> None:
    (photo,) = place.photos(1)
    loud = photo.with_name("\x1b[31mred\r\n[bold]\x07.jpg")
    loud.write_bytes(b"\x1b]0;title\x07 no picture")
    done = here("map", photo.parent, "\x1b[2Jnowhere.jpg", "--out", "out")
    assert "\x1b" not in done.output
    done = here("map", photo.parent, "--out", "out\x1b[2J")
    assert done.exit_code == 1
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", done.output)
    assert "\\x1b[31mred\\r\\n[bold]\\x07.jpg" in done.stdout


def test_without_a_terminal_lines_tell_how_far_it_is(place, here, monkeypatch) -> None:
    monkeypatch.setattr(terminal, "SECONDS_BETWEEN_LINES", 0.0)
    done = here("map", place.photos(4)[0].parent, "--out", "out")
    lines = [line for line in done.stdout.splitlines() if line.startswith("tiny on cpu: ")]
    assert len(lines) == 3, done.stdout
    assert re.fullmatch(r"tiny on cpu: 3/4 photos  [\d.,]+ images/s  \d+ s left", lines[-1])


@pytest.mark.parametrize("module", ["depth_core.cli", "pipelines.materialize"])
def test_an_interrupt_while_a_program_is_still_being_imported_is_one_line(module: str) -> None:
    # Modules that are imported late send the signal; so the moment is the same on every machine.
    early = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"
    code = (
        "import runpy, sys, importlib.abc, importlib.util\n"
        "class At(importlib.abc.MetaPathFinder, importlib.abc.Loader):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name in ('typer', 'pyarrow'): return importlib.util.spec_from_loader(name, self)\n"
        "    def create_module(self, spec): return None\n"
        f"    def exec_module(self, module): exec({early!r})\n"
        f"sys.meta_path.insert(0, At()); runpy.run_module('{module}', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, module], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted: run again to go on\n")


def test_a_full_disk_under_what_is_printed_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "depth_core.cli", "--version"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=120
        )
    assert done.returncode == 2
    assert done.stderr == "error cannot write the output: No space left on device\n"


@pytest.mark.parametrize(("number", "status", "afresh"), [(signal.SIGINT, 130, False), (signal.SIGTERM, 143, True)])
def test_an_interrupt_is_one_line_and_what_is_made_stays(place, number: signal.Signals, status: int, afresh: bool) -> None:
    (photo,) = place.photos(1, (1600, 1200))
    for n in range(1, 150):
        shutil.copy(photo, photo.with_name(f"{n:04d}.jpg"))
    folder, out = photo.parent, place.folder / "out"
    out.mkdir()
    arguments = ("map", folder, "--out", "out")
    process = place.start_afresh("depthline", *arguments) if afresh else place.start("-m", "depth_core.cli", *arguments)
    eventually_of(process, lambda: list(out.glob("*.depth.json")))
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == status, said
    assert said == "interrupted: run again to go on\n"
    made = len(list(out.glob("*.depth.json")))
    assert 0 < made < 150
    assert made == len(list(out.glob("*.depth.png")))
    assert not (out / ".parts").exists()


def test_a_map_of_one_photo_loads_nothing_that_it_does_not_need(place) -> None:
    code = """
import sys
from depth_core import settings
from depth_core.catalog import BY_KEY
from depth_core.cli import commands
from depth_core.inference import checkpoints, predictor, preprocessing, sizing, weights
from depth_core.output import normalization

configured = settings.load()
checkpoints.resolve(BY_KEY["tiny"], configured)
checkpoints.describe_models(configured)
assert "torch" not in sys.modules
commands.app(["map", *sys.argv[1:]], standalone_mode=False)
assert "torch" in sys.modules
print(sorted({"transformers", "pandas", "pyarrow", "sqlalchemy", "jinja2", "httpx", "s3fs", "dagster"} & set(sys.modules)))
"""
    (photo,) = place.photos(1)
    done = place.run(sys.executable, "-c", code, photo, "--out", "out")
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
    assert (place.folder / "out" / f"{photo.stem}.depth.png").is_file()


def test_version_and_help_are_said_and_that_is_all(place) -> None:
    version = place.run("depthline", "--version")
    assert (version.returncode, version.stdout) == (0, f"depthline {importlib.metadata.version('depthline')}\n")
    done = place.run(sys.executable, "-m", "depth_core.cli", "--help")
    assert done.returncode == 0
    assert all(word in done.stdout for word in ("Usage:", "map", "doctor", "models", "webhooks"))


def test_of_a_folder_only_files_are_taken(place, here) -> None:
    (photo,) = place.photos(1)
    (photo.parent / "folder.jpg").mkdir()
    os.mkfifo(photo.parent / "pipe.jpg")
    (photo.parent / "gone.jpg").symlink_to("nowhere")
    done = here("map", photo.parent, "--out", "out")
    assert done.exit_code == 0, done.stdout
    assert "1 depth map made" in done.stdout


def test_depth_maps_go_to_a_bucket_when_that_is_where_they_should_go(place, here, bucket, monkeypatch) -> None:
    (photo,) = place.photos(1)
    url, options = bucket
    monkeypatch.setenv("DEPTH_STORE_OPTIONS", json.dumps(options))
    done = here("map", photo, "--out", url)
    assert done.exit_code == 0, done.output
    assert f"1 depth map made in {url}" in done.stdout
    assert list(Store(url, options).keys("")) == ["0000.depth.json", "0000.depth.png"]
    assert "1 of 1 are there already" in here("map", photo, "--out", url).stdout
    assert not (place.folder / "s3:").exists()


@pytest.mark.parametrize("out", ["dangling/maps", "photos/0000.jpg", "/proc/maps", "s3://nobody-made-this/maps"])
def test_where_nothing_can_be_written_is_one_line(place, here, bucket, monkeypatch, out: str) -> None:
    (photo,) = place.photos(1)
    (place.folder / "dangling").symlink_to("nowhere")
    monkeypatch.setenv("DEPTH_STORE_OPTIONS", json.dumps(bucket[1]))
    done = here("map", photo, "--out", out)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error cannot write ")
    assert f"{out}: " in done.stderr
    assert done.stderr.count("\n") == 1


def test_photos_of_one_name_get_a_number_and_depth_maps_are_not_taken_for_photos(place, here) -> None:
    (photo,) = place.photos(1)
    with Image.open(photo) as image:
        image.save(photo.with_suffix(".png"))
    folder = photo.parent
    done = here("map", folder, "--out", folder)
    assert "2 depth maps made" in done.stdout
    assert {"0000.depth.png", "0000-2.depth.png"} <= set(names(folder))
    again = here("map", folder, folder / "*.*", "--out", folder)
    assert "2 of 2 are there already" in again.stdout


def test_a_bad_file_among_good_ones_is_named_and_costs_its_neighbours_nothing(place, here) -> None:
    photos = place.photos(2)
    bad = place.folder / "photos" / "0000a.jpg"
    bad.write_bytes(b"<html>gone</html>")
    done = here("map", *photos, bad, "--out", "out")
    assert done.exit_code == 1
    assert f"not_an_image {bad}" in done.stdout
    assert "2 depth maps made in out, 1 failed" in done.stdout
    assert not [name for name in names(place.folder / "out") if name.startswith("0000a")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "nonsense"], ["nonsense", *(spec.key for spec in MODELS)]),
        (["--model", "large"], ["v2/large", "v3/large"]),
        (["--mode", "Raw"], ["--mode", "V3"]),
        (["--mode", "V2-Style", "--model", "tiny"], ["--mode", "V3"]),
        (["--resolution", "300"], ["--resolution", "multiple of 64 from 256 to 2048"]),
        (["--resolution", "100"], ["--resolution", "multiple of 64 from 256 to 2048"]),
        (["--device", "cuda:77"], ["cuda:77"]),
        (["nowhere.jpg"], ["no photo at nowhere.jpg: there is no such file or folder"]),
        (["--out", ""], ["--out"]),
        (["--out", "s3://"], ["--out", "s3://bucket/prefix"]),
    ],
    ids=lambda case: " ".join(case) if isinstance(case, list) and case and case[0].startswith(("--", "no")) else "",
)
def test_what_cannot_be_done_at_all_is_one_line_with_the_cure(place, here, arguments: list[str], said: list[str]) -> None:
    (photo,) = place.photos(1)
    done = here("map", photo, "--out", "out", *arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error ")
    assert done.stderr.count("\n") == 1
    for word in said:
        assert word in done.stderr
    assert not list((place.folder / "out").glob("*")), "nothing was asked of the network"


def test_a_model_whose_weights_are_not_here_is_never_answered_with_another(place, here, monkeypatch) -> None:
    (photo,) = place.photos(1)
    monkeypatch.setenv("DEPTH_CHECKPOINTS", json.dumps({"v2/small": str(place.folder / "no-weights-here")}))
    done = here("map", photo, "--out", "out", "--model", "v2/small")
    assert done.exit_code == 2
    assert "no-weights-here" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_doctor_of_a_sound_installation_shows_it_and_is_content(place, here) -> None:
    place.settings["DEPTH_CHECKPOINTS"] = "{}"  # the bundled network
    done = here("doctor")
    assert done.exit_code == 0, done.stdout + done.stderr
    for shown in ("depthline", "torch", "cpu (DEPTH_DEVICE=cpu)", "writable", "preview", "here: bundled"):
        assert shown in done.stdout
    assert "wrong" not in done.stdout


def test_the_doctor_names_profiles_that_cannot_run_and_what_gets_their_weights(place) -> None:
    place.settings["HF_HOME"] = str(place.folder / "empty")
    with (place.folder / "profiles.toml").open("a") as file:
        file.write('[standard.parameters]\nmodel = "small"\n[mono.parameters]\nuseVersion3 = true\nmodel = "mono_large"\n')
    place.settings["DEPTH_CHECKPOINTS"] = "{}"  # the bundled network
    done = place.run("depthline", "doctor")
    assert done.returncode == 1
    said = " ".join(done.stdout.split())
    assert "profile preview can run: tiny, bundled" in said
    assert "profile standard cannot run: v2/small is not here yet" in said
    assert "wrong: profile standard, profile mono" in said
    assert "`depthline models fetch v2/small v3/mono_large` gets what they lack" in said


def break_store(place) -> None:
    (place.folder / "store").write_text("a file where the store's folder should be")


def break_profiles(place) -> None:
    (place.folder / "profiles.toml").write_text("[preview]\ncolour = 'red'\n")


def break_device(place) -> None:
    place.settings["DEPTH_DEVICE"] = "abacus"


def break_setting(place) -> None:
    place.settings["DEPTH_PNG_LEVEL"] = "11"


def break_checkpoint(place) -> None:
    place.settings["DEPTH_CHECKPOINTS"] = '{"v2/small": "no-weights-here.safetensors"}'


def break_checkpoints_folder(place) -> None:
    place.settings["DEPTH_CHECKPOINTS_URL"] = "no-such-folder"


def break_checkpoint_of_profile(place) -> None:
    profile = '[mine]\ncheckpoint = "no-weights-of-mine"\n[mine.parameters]\nmodel = "small"\n'
    (place.folder / "profiles.toml").write_text(profile)


def break_model_name(place) -> None:
    place.settings["DEPTH_HUB_REVISIONS"] = '{"v2/smal": "main"}'


def break_warm_model(place) -> None:
    place.settings["DEPTH_WARM_MODELS"] = '["tiny", "v2/giant"]'


def break_database(place) -> None:
    place.settings["DEPTH_DATABASE_URL"] = "postgresql://ann:pass@127.0.0.1:9/depth"


def break_database_file(place) -> None:
    (place.folder / "no.db").write_text("no database at all, and long enough to be taken for one" * 20)
    place.settings["DEPTH_DATABASE_URL"] = "sqlite:///no.db"


def lose_profiles(place) -> None:
    (place.folder / "profiles.toml").unlink()


@pytest.mark.parametrize(
    ("break_it", "named"),
    [
        (break_store, "store is a file, not a folder"),
        (break_database, "cannot open the database postgresql+psycopg://127.0.0.1:9/depth (DEPTH_DATABASE_URL)"),
        (break_database_file, "cannot open the database sqlite:///no.db (DEPTH_DATABASE_URL): file is not a database"),
        (break_profiles, "colour"),
        (lose_profiles, "DEPTH_PROFILES"),
        (break_device, "abacus"),
        (break_setting, "DEPTH_PNG_LEVEL"),
        (break_checkpoint, "no-weights-here"),
        (break_checkpoints_folder, "nothing at no-such-folder"),
        (break_checkpoint_of_profile, "[mine] checkpoint: v2/small: no weights at"),
        (break_model_name, "v2/smal"),
        (break_warm_model, "wrong: warm v2/giant"),
    ],
)
def test_the_doctor_names_what_is_wrong(place, here, break_it, named: str) -> None:
    break_it(place)
    done = here("doctor")
    assert done.exit_code == 1
    assert "wrong" in done.stdout
    assert "".join(named.split()) in "".join(done.stdout.split()), "however the table folds its lines"


def test_the_doctor_of_people_without_a_pipeline_is_content_and_leaves_nothing_behind(place, here, monkeypatch, tmp_path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.delenv("DEPTH_DATA")
    done = here("doctor")
    assert done.exit_code == 0, done.stdout
    assert "none at data/profiles.toml" in done.stdout
    assert list(elsewhere.iterdir()) == []


def test_models_lists_every_model_with_its_licence_and_where_its_weights_are(place, here) -> None:
    place.settings["DEPTH_CHECKPOINTS"] = "{}"  # the bundled network
    done = here("models")
    assert done.exit_code == 0
    for spec in MODELS:
        (facts,) = [line for line in done.stdout.splitlines() if line.split()[:1] == [spec.key] and spec.licence in line]
        assert spec.kind.value.replace("_", " ") in facts
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "here: bundled" in done.stdout


def test_a_fetch_of_several_models_gets_what_can_be_had_and_names_the_rest_at_the_end(place, here, monkeypatch) -> None:
    wrong = {"v2/small": "no-weights-here", "v3/small": str(checkpoints.BUNDLED / "model.safetensors")}
    monkeypatch.setenv("DEPTH_CHECKPOINTS", json.dumps(wrong | {"tiny": str(checkpoints.BUNDLED)}))
    done = here("models", "fetch", "v2/small", "v3/small", "tiny")
    assert done.exit_code == 2
    assert done.stdout == f"tiny: {checkpoints.BUNDLED} at {checkpoints.BUNDLED}\n"
    first, second = done.stderr.splitlines()
    assert first.startswith("error v2/small: no weights at")
    assert "does not hold the weights of v3/small" in second
    assert here("models", "fetch", "tiny").exit_code == 0


def test_a_fetch_of_a_model_that_is_not_gets_nothing(here) -> None:
    done = here("models", "fetch", "tiny", "nonsense")
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "no model 'nonsense'" in done.stderr
