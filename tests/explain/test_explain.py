"""`depthline explain` as an operator types it: what is found, what is said of it, and what it says to run."""

from __future__ import annotations

import hashlib
import re
from itertools import product
from uuid import UUID, uuid4

import pytest
from click.testing import Result
from typer.testing import CliRunner

from depth_core import layout
from depth_core.cli.commands import app
from depth_core.contract import DepthParameters
from depth_core.errors import ErrorKind
from depth_core.explain import cures
from depth_core.explain.cures import Stage
from depth_core.ingest import manifest, sources
from depth_core.output import records
from depth_core.output.journal import Journal
from depth_core.output.outcomes import Outcome
from depth_core.serving import request_records
from depth_core.serving.artworks.store import open_store
from depth_core.serving.artworks.types import NewArtwork


def explain(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["explain", *arguments])


def said(*arguments: str) -> str:
    """What is printed of something that is found, its spaces made one."""
    result = explain(*arguments)
    assert result.exit_code == 0, result.output
    return re.sub(r"[ \n]+", " ", result.stdout)


def sha_of(production, name: str) -> str:
    return hashlib.sha256((production.folder / "photos" / name).read_bytes()).hexdigest()


# -- what is said -------------------------------------------------------------------------------------------------------------


def test_a_damaged_image_is_explained_from_its_row_to_its_cure(read_only) -> None:
    text = said("b")
    (chunk,) = set(records.read(read_only.store)["chunk"])
    assert f"row b of {read_only.folder}/manifests/shots.csv, line 3" in text
    assert f"chunk {chunk} " in text
    assert f"image {read_only.folder}/photos/damaged.png" in text
    assert re.search(r"source fetched \d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ, .*\d+ bytes", text)
    assert f"sha256 {sha_of(read_only, 'damaged.png')}" in text
    assert "preview failed with tiny: truncated_image, permanent, 1 attempt, 2026-02-03 04:05:06Z the image ends early" in text
    assert "recorded by run run-7" in text
    assert "to do: replace the image at its origin" in text
    assert f"-j retry_all_failed_rows --partitions '{chunk}|preview' --noprompt" in text
    assert (
        f"inverted not made yet to make it: dagster job backfill -w workspace.yaml -j depth_maps_for_chunk --partitions '{chunk}"
        in text
    )


def test_a_good_image_has_its_files_and_no_cure(read_only) -> None:
    text = said("a", "--profile", "preview")
    folder = layout.depth_folder(sha_of(read_only, "good.png"), "d" * 12)
    assert "preview succeeded with tiny, 1 attempt" in text
    assert f"files: depth.png, depth.json in {read_only.store.url(folder)}" in text
    assert "dagster" not in text
    assert "inverted" not in text


def test_files_that_are_gone_are_named_with_the_run_that_makes_them_again(production) -> None:
    production.store.delete(f"{layout.depth_folder(sha_of(production, 'good.png'), 'd' * 12)}/depth.png")
    text = said("a", "--profile", "preview")
    assert "these files are gone: depth.png" in text
    assert "dagster asset materialize -m pipelines.definitions --select depth_maps,artwork_records,depth_gallery" in text
    assert '"config": {"verify": true}' in text


def test_a_download_that_failed_for_a_temporary_reason_is_tried_again_by_itself(read_only) -> None:
    text = said("d", "--profile", "preview")
    assert "source failed: unreachable, temporary, 1 attempt" in text
    assert "every later run of this chunk tries again automatically" in text
    assert "-j retry_failed_rows" in text


def test_an_image_that_is_not_there_is_permanent(read_only) -> None:
    text = said("c", "--profile", "preview")
    assert "source failed: not_found, permanent" in text
    assert "-j retry_all_failed_rows" in text


def test_a_bad_row_is_corrected_in_the_manifest(read_only) -> None:
    text = said("e", "--profile", "preview")
    assert "line 6" in text
    assert "image none source not fetched yet" in text
    assert "missing_url, permanent, never tried" in text
    assert "to do: give the row an image_url in the manifest then: dagster job backfill -w workspace.yaml -j ingest_chunk" in text


def test_an_image_that_was_fetched_since_its_record_was_written_only_needs_a_run(production) -> None:
    production.photo("nowhere.png", 3)
    (chunk,) = set(records.read(production.store)["chunk"])
    production.ingest(chunk)
    text = said("c", "--profile", "preview")
    assert "its image was fetched since" in text
    assert "-j depth_maps_for_chunk" in text


def test_a_row_without_a_record_says_what_stopped_it(read_only) -> None:
    assert "inverted not made: its row is wrong to do: give the row an image_url" in said("e")
    assert "inverted not made: its image could not be fetched to do: put the image back" in said("c")
    assert "inverted not made: its image could not be fetched to do: check that the host" in said("d")


def test_whether_the_chunk_is_complete_is_said_when_that_is_asked(production) -> None:
    assert "its chunk is" not in said("a")
    text = said("a", "--chunk")
    assert "its chunk is not complete: an image is missing, has changed or failed for a temporary reason" in text
    (chunk,) = production.index("one.csv", "id,image_url", "one,../photos/good.png")
    assert "its chunk is not complete: its rows are not validated yet" in said("one", "--chunk")
    production.ingest(chunk)
    assert "its chunk is not complete: its records are not written yet" in said("one", "--chunk")
    (production.folder / "profiles.toml").write_text('[preview]\ncheckpoint = "/nowhere"\n[preview.parameters]\nmodel = "tiny"\n')
    assert re.search("its chunk is complete cannot be checked: .*no weights at /nowhere", said("one", "--chunk"))


def test_an_outcome_of_a_run_that_has_not_ended_is_told(production) -> None:
    (chunk,) = set(records.read(production.store)["chunk"])
    sha = sha_of(production, "damaged.png")
    with Journal(production.store, "preview", chunk, "run-8") as journal:
        journal.append(Outcome(sha, "failed", error_kind="out_of_memory", error_message="no room"))
    assert "a run that has not finished reports failed: out_of_memory, no room" in said("b")


def test_what_the_server_said_against_machine_learning_is_told(production) -> None:
    (chunk,) = set(records.read(production.store)["chunk"])
    table = sources.read_table(production.store, chunk)
    sources.write_table(production.store, chunk, table.assign(robots="noai"))
    assert "server says noai" in said("a")


def test_a_row_that_no_run_has_come_to_is_found_in_its_manifest(production) -> None:
    (chunk,) = production.index("more.csv", "id,image_url", "later,../photos/good.png", ",../photos/by-url.png")
    for query in ("later", "by-url.png"):
        text = said(query, "--profile", "preview")
        assert f"chunk {chunk} " in text
        assert "source not fetched yet preview not made: its image is not fetched yet to make it:" in text
        assert f"-j ingest_chunk --partitions '{chunk}'" in text


def test_a_row_that_its_manifest_has_lost_is_not_found_there(production) -> None:
    production.index("more.csv", "id,image_url", "later,../photos/good.png", "other,../photos/x.png")
    production.index("more.csv", "id,image_url", "other,../photos/x.png")
    assert explain("later").exit_code == 1


def test_profiles_that_cannot_be_read_do_not_hide_the_records(production) -> None:
    (production.folder / "profiles.toml").write_text("not TOML")
    assert "preview failed" in said("b")


# -- what is found ------------------------------------------------------------------------------------------------------------


def test_an_image_is_found_by_everything_that_names_it(read_only) -> None:
    sha = sha_of(read_only, "damaged.png")
    record = records.read(read_only.store).set_index("row_id").loc["b"]
    for query in ("id:b", record["image_url"], "photos/damaged.png", "damaged.png", sha, sha.upper(), sha[:8], record["id"]):
        text = said(query)
        assert text.startswith("row b of"), query
        assert text.count("row key") == 1, query


def test_a_url_is_found_as_it_is_and_as_it_is_shown_and_never_shown_whole(read_only) -> None:
    url = "http://127.0.0.1:9/gone.jpg?token="
    for query in ("http://me:hunter2@127.0.0.1:9/gone.jpg?token=hunter3", f"{url}***", f"{url}renewed", "gone.jpg"):
        text = said(query)
        assert text.startswith("row d of")
        assert "image http://127.0.0.1:9/gone.jpg?token=***" in text
        assert "hunter" not in text
    for query in ("http://127.0.0.1:9/other.jpg?token=***", "http://127.0.0.1:9/gone.jpg?page=2", "http://***"):
        assert explain(query).exit_code == 1, query


def test_only_one_manifest_is_asked(production) -> None:
    (chunk,) = production.index("more.csv", "id,image_url", "b,../photos/good.png")
    production.ingest(chunk)
    production.make(chunk, "preview")
    assert said("b").count("row b of") == 2
    path = production.folder / "manifests" / "more.csv"
    for name in ("more", "more.csv", "manifests/more.csv", str(path), manifest.slug(str(path))):
        text = said("b", "--manifest", name)
        assert text.count("row b of") == 1, name
        assert f"chunk {chunk} " in text, name
    assert explain("b", "--manifest", "other").exit_code == 1


def test_another_store_is_asked(read_only, tmp_path) -> None:
    result = explain("b", "--store", str(tmp_path / "empty"))
    assert result.exit_code == 1
    assert "nothing is known of b" in result.stderr


def test_of_many_rows_the_first_are_explained_and_the_rest_counted(production) -> None:
    lines = [f"{n},../photos/good.png" for n in range(30)]
    for chunk in production.index("many.csv", "id,image_url", *lines):
        production.ingest(chunk)
        production.make(chunk, "preview")
    text = said("good.png", "--manifest", "many")
    assert text.count("row key") == 10
    assert "and 20 more" in text


# -- single requests ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def artwork(production) -> UUID:
    """A request that failed."""
    artworks = open_store(production.settings)
    parameters = DepthParameters(model="tiny", resolution_lower_limit=256)
    new = NewArtwork("http://me:hunter2@127.0.0.1:9/a.jpg?token=hunter3", parameters)
    artwork_id = artworks.create(new, api_key_id="ann").artwork.id
    artworks.workers.start("worker-1", "cpu", run_id="run-9")
    artworks.queue.claim("worker-1", limit=1, lease_seconds=60)
    artworks.queue.fail(artwork_id, "worker-1", ErrorKind.UNREACHABLE, "no such host")
    artworks.close()
    return artwork_id


def check_request(text: str, artwork: UUID) -> None:
    assert text.startswith(f"artwork {artwork}, a single request")
    assert "status failed: unreachable, temporary, 1 attempt no such host" in text
    assert "image http://127.0.0.1:9/a.jpg?token=***" in text
    assert "asked by ann, http" in text
    assert "send the request again" in text
    assert "hunter" not in text


def test_a_single_request_is_explained_with_its_history_and_runs(production, artwork: UUID) -> None:
    text = said(str(artwork))
    check_request(text, artwork)
    assert "run run-9 (worker-1 on" in text
    assert re.search(r"Z processing worker-1 .*Z failed worker-1", text)


def test_a_single_request_that_the_database_has_forgotten_is_found_in_the_table_of_its_day(production, artwork: UUID) -> None:
    artworks = open_store(production.settings)
    finished = artworks.get(artwork).finished_at
    request_records.write_day(artworks, production.store, finished.date())
    artworks.close()
    check_request(said("a.jpg"), artwork)  # by a name that only tables know
    (production.folder / "depthline.db").unlink()
    check_request(said(str(artwork)), artwork)
    assert not (production.folder / "depthline.db").exists(), "no database is made for a question"


# -- what is refused ----------------------------------------------------------------------------------------------------------


def test_what_nobody_knows_ends_with_1(read_only) -> None:
    for query in ("nobody", "http://127.0.0.1/none.jpg", "f" * 64, "abcdef12", str(uuid4()), "://", "%", "*", "a" * 10_000):
        result = explain(query)
        assert result.exit_code == 1, query
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("query", ["", "  ", "\udc80"])
def test_what_cannot_be_looked_for_ends_with_2(read_only, query: str) -> None:
    assert explain(query).exit_code == 2


@pytest.mark.parametrize("profile", ["colourful", "../outcomes/preview", ""])
def test_a_profile_that_is_not_there_ends_with_2(read_only, profile: str) -> None:
    result = explain("b", "--profile", profile)
    assert result.exit_code == 2
    assert "there are: preview, inverted" in result.stderr


def test_the_beginning_of_several_hashes_ends_with_2_and_names_them(production) -> None:
    frame = records.read_chunk(production.store, "preview", (chunk := records.read(production.store)["chunk"][0]))
    alike = ["abcdef" + each * 58 for each in "0123"] + [None]
    records.write(production.store, frame.assign(source_sha256=alike), "preview", chunk)
    result = explain("abcdef")
    assert result.exit_code == 2
    assert alike[0] in result.stderr
    assert explain("abcdef0").exit_code == 0


def test_what_strangers_wrote_cannot_speak_to_the_terminal(production) -> None:
    (chunk,) = production.index("odd.csv", "id,image_url", "\x1b[31m[bold]red,[bold]\x1b]0;x\x07.jpg", "\"=1+1|'x'\",y.jpg")
    production.ingest(chunk)
    production.make(chunk, "preview")
    for query in ("\x1b[31m[bold]red", "\x1b]0;x\x07.jpg", "no\x1b[31mbody", "=1+1|'x'"):
        result = explain(query)
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", result.output), query
    assert r"row \x1b[31m[bold]red of" in explain("\x1b[31m[bold]red").stdout


def test_columns_that_look_like_patterns_are_taken_as_they_are(production) -> None:
    (chunk,) = production.index("odd.csv", "id,image_url", "a.*,../photos/good.png", "a%,../photos/good.png")
    production.ingest(chunk)
    production.make(chunk, "preview")
    assert said("a.*").count("row key") == 1
    assert said("a%").count("row key") == 1


# -- cures --------------------------------------------------------------------------------------------------------------------


def test_every_kind_of_error_has_an_advice() -> None:
    assert set(cures.ADVICE) == set(ErrorKind)


def test_an_error_kind_of_another_version_counts_as_internal() -> None:
    assert cures.kind_of("of tomorrow") is ErrorKind.INTERNAL
    assert cures.kind_of(None) is ErrorKind.INTERNAL


def test_every_failure_names_a_run_and_says_whether_it_comes_by_itself() -> None:
    for stage, kind in product(Stage, ErrorKind):
        cure = cures.of_row(stage, kind, chunk="c-00000", profile="p")
        assert bool(cure.jobs) == (stage is not Stage.DONE)
        assert cure.by_itself == (stage in (Stage.SOURCE, Stage.IMAGE) and kind.retryable)
