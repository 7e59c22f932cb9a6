"""`depthline plan` as an operator types it: what is new, how large it is, what it takes, and what is said of the unknown."""

from __future__ import annotations

import pytest
from support import commands
from support.outcomes import failed, succeeded
from support.photos import photo

from depth_core.output.gallery import PAGE_LIMIT
from depth_core.plan import images, requests

GONE = "http://127.0.0.1:9/gone.jpg"


# -- what is new --------------------------------------------------------------------------------------------------------------


def test_all_images_of_a_manifest_that_nobody_indexed_are_new_each_counted_once(desk) -> None:
    one, two = desk.photo("1.jpg", 1), desk.photo("2.jpg", 2)
    figures = desk.plan(desk.manifest(one, two, one, "gopher://x/y.jpg", "s3://"))
    assert [figures[name] for name in ("rows", "badRows", "images")] == [5, 2, 2]
    assert [figures[name] for name in ("imagesToFetch", "depthMapsToMake", "isEstimate")] == [2, 2, False]
    assert [figures[name] for name in ("chunks", "rowsPerChunk", "partitions")] == [1, 1000, 3]
    assert figures["bytesPerSource"] == (len(photo(64, 48, 1)) + len(photo(64, 48, 2))) / 2
    assert figures["downloadBytes"] == len(photo(64, 48, 1)) + len(photo(64, 48, 2))
    assert figures["deviceHours"] == 2 / 2 / 3600
    assert list(desk.folder.glob("store/**/*.parquet")) == []


def test_what_was_fetched_and_made_is_not_new_but_what_is_made_otherwise_is(desk) -> None:
    one, two, three = (desk.photo(f"{n}.jpg", n) for n in range(3))
    uri = desk.manifest(one, two, three)
    (chunk,) = desk.ingest(uri)
    figures = desk.plan(uri)
    assert (figures["imagesToFetch"], figures["depthMapsToMake"], figures["downloadBytes"]) == (0, 3, 0)

    first, second, third = (desk.sha256(chunk, url) for url in (one, two, three))
    desk.finish(
        chunk,
        succeeded(first, folder=desk.folder_of(first)),
        succeeded(second),  # under another digest
        failed(third, folder=desk.folder_of(third)),
    )
    assert desk.plan(uri)["depthMapsToMake"] == 1
    assert desk.plan(uri, profile="deep")["depthMapsToMake"] == 3

    desk.finish(chunk, *(failed(sha, "timeout", folder=desk.folder_of(sha)) for sha in (first, second, third)))
    assert desk.plan(uri)["depthMapsToMake"] == 3


def test_images_that_failed_for_good_are_not_new_and_those_that_may_get_better_are(desk) -> None:
    there, missing = desk.photo("1.jpg"), desk.server.on("/none.jpg", desk.server.answer(404))
    uri = desk.manifest(there, missing, GONE)
    desk.ingest(uri)
    figures = desk.plan(uri)
    assert (figures["imagesToFetch"], figures["imagesGivenUp"]) == (1, 1)


def test_images_that_another_manifest_brought_are_found_in_the_store(desk) -> None:
    one, two = desk.photo("1.jpg", 1), desk.photo("2.jpg", 2)
    (chunk,) = desk.ingest(desk.manifest(one, two, name="other.csv"))
    sha = desk.sha256(chunk, one)
    desk.store.write(f"{desk.folder_of(sha)}/depth.json", b"{}")
    figures = desk.plan(desk.manifest(one, two, desk.photo("3.jpg", 3)))
    assert (figures["imagesToFetch"], figures["depthMapsToMake"], figures["isEstimate"]) == (1, 2, False)


def test_of_more_images_than_the_sample_it_says_that_it_estimates(desk) -> None:
    urls = [desk.photo(f"{n}.jpg", n) for n in range(6)]
    desk.ingest(desk.manifest(*urls, name="other.csv"))
    figures = desk.plan(desk.manifest(*urls, desk.photo("new.jpg", 7)), "--sample", "3")
    assert figures["isEstimate"]
    assert figures["imagesToFetch"] in (0, 2)  # none or one of three in the sample
    assert any("sample" in assumption for assumption in figures["assumptions"])


def test_chunks_are_those_of_the_index_with_new_rows_in_theirs(desk) -> None:
    urls = [desk.photo(f"{n}.jpg", n) for n in range(5)]
    desk.ingest(desk.manifest(*urls[:3]), rows_per_chunk=2)
    figures = desk.plan(desk.manifest(*urls))
    assert (figures["rowsPerChunk"], figures["chunks"], figures["imagesToFetch"]) == (2, 3, 2)


def test_a_sample_is_the_same_however_the_rows_are_ordered_and_has_no_repeats() -> None:
    urls = [f"http://x/{n}.jpg" for n in range(50)]
    samples = []
    for order in (urls, urls[::-1] * 2):
        lowest = images._Lowest(5)
        for url in order:
            lowest.add(images._hashes([url]), images.np.array([url], object))
        samples.append(lowest.urls)
    assert samples[0] == samples[1]
    assert len(set(samples[0])) == 5


# -- how large it is ----------------------------------------------------------------------------------------------------------


def test_servers_that_do_not_say_a_size_are_counted_and_fail_nothing(desk) -> None:
    def no_length(handler) -> None:
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.close_connection = True

    good = desk.photo("1.jpg")
    silent = desk.server.on("/silent.jpg", no_length)
    refusing = desk.server.on("/refusing.jpg", desk.server.answer(405))
    packed = desk.server.on("/packed.jpg", desk.server.answer(200, b"1234", Content_Encoding="gzip"))
    figures = desk.plan(desk.manifest(good, silent, refusing, packed, GONE))
    assert (figures["sizesAsked"], figures["sizesKnown"]) == (5, 1)
    assert figures["downloadBytes"] == 5 * len(photo(64, 48))
    assert {request.method for request in desk.server.requests} == {"HEAD"}


def test_a_size_that_nobody_says_is_unknown(desk) -> None:
    uri = desk.manifest(GONE)
    figures = desk.plan(uri)
    assert (figures["downloadBytes"], figures["diskBytes"], figures["sizesKnown"]) == (None, None, 0)
    said = commands.run("plan", uri, "--profile", "preview", "--images-per-second", "2").output
    assert "unknown: 0 of 1 that were asked said their size" in said


def test_private_hosts_are_not_asked_unless_they_are_allowed(desk, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = desk.manifest(desk.photo("1.jpg"))
    monkeypatch.setenv("DEPTH_MANIFEST_PRIVATE_HOSTS", "false")
    assert desk.plan(uri)["sizesKnown"] == 0
    assert desk.server.requests == []


def test_local_files_say_their_size(desk) -> None:
    (desk.folder / "a.jpg").write_bytes(b"12345")
    figures = desk.plan(desk.manifest("a.jpg", "gone.jpg"))
    assert (figures["bytesPerSource"], figures["sizesKnown"], figures["sizesAsked"]) == (5, 1, 2)


# -- what it takes ------------------------------------------------------------------------------------------------------------


def test_requests_are_those_of_the_images_and_chunks(desk) -> None:
    figures = desk.plan(desk.manifest(desk.photo("1.jpg")), profile="deep")
    found = requests.of_work(chunks=1, to_fetch=1, to_make=1, files=3)  # depth.png, depth16.png, depth.json
    assert figures["requests"] == dict(found)
    assert found["PUT"] == 2 + 2 + 1 + 2 + sum(each.get("PUT", 0) for each in requests.PER_CHUNK.values())


def test_a_gallery_shows_no_more_of_a_chunk_than_a_page_has() -> None:
    few = requests.of_work(chunks=1, to_fetch=0, to_make=PAGE_LIMIT, files=2)
    more = requests.of_work(chunks=1, to_fetch=0, to_make=PAGE_LIMIT + 100, files=2)
    assert more["GET"] - few["GET"] == 100 * 3  # not five, with the gallery's two


def test_a_trial_measures_images_of_the_manifest_and_the_files_of_a_depth_map(desk) -> None:
    url = desk.photo("1.jpg")
    uri = desk.manifest(url, GONE)
    figures = desk.plan(uri, "--seconds", "0.1", rate="")
    assert figures["imagesPerSecondMeasured"]
    assert figures["device"] == "cpu"
    assert figures["imagesPerSecond"] > 0
    assert 100 < figures["bytesPerDepthMap"] < 10_000  # of 64 x 48 pixels: not those of a drawn picture
    assert figures["diskBytes"] > figures["downloadBytes"]


def test_a_trial_draws_pictures_when_none_can_be_fetched_and_says_so(desk) -> None:
    figures = desk.plan(desk.manifest(GONE), "--seconds", "0.1", rate="")
    assert figures["bytesPerDepthMap"] > 10_000
    assert any("drawn" in assumption for assumption in figures["assumptions"])


def test_depth_maps_that_the_store_has_are_measured_without_a_trial(desk) -> None:
    one, two = desk.photo("1.jpg", 1), desk.photo("2.jpg", 2)
    uri = desk.manifest(one)
    (chunk,) = desk.ingest(uri)
    folder = desk.folder_of(desk.sha256(chunk, one))
    desk.finish(chunk, succeeded(desk.sha256(chunk, one), folder=folder))
    desk.store.write(f"{folder}/depth.png", b"x" * 70)
    desk.store.write(f"{folder}/depth.json", b"y" * 30)
    assert desk.plan(desk.manifest(one, two))["bytesPerDepthMap"] == 100


def test_nothing_new_takes_nothing_and_tries_nothing(desk) -> None:
    url = desk.photo("1.jpg")
    uri = desk.manifest(url)
    (chunk,) = desk.ingest(uri)
    sha = desk.sha256(chunk, url)
    desk.finish(chunk, succeeded(sha, folder=desk.folder_of(sha)))
    figures = desk.plan(uri, rate="")
    assert (figures["deviceHours"], figures["diskBytes"], figures["imagesPerSecond"]) == (0, 0, None)
    said = commands.run("plan", uri, "--profile", "preview").output
    assert "0 images to fetch, 0 depth maps to make under preview" in said
    assert "nothing to make" in said


def test_a_terminal_shows_a_line_of_each(desk) -> None:
    uri = desk.manifest(desk.photo("1.jpg"), "")
    done = commands.run("plan", uri, "--profile", "preview", "--images-per-second", "0.001")
    assert done.exit_code == 0
    lines = done.output.splitlines()
    names = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert names == ["manifest", "chunks", "new", "download", "device", "S3", "disk", "assumed"]
    assert "1 of 1,000 rows, 3 partitions with 3 profiles" in lines[1]
    assert "0.28 hours of one, at 0.00 images/s (as given)" in lines[4]
    assert "if the store were in a bucket" in lines[5]


# -- what is wrong ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("none.csv", None, ("--profile", "preview"), "none.csv does not exist"),
        ("photos.csv", "name\nx\n", ("--profile", "preview"), "has no column image_url"),
        ("photos.doc", "image_url\nx\n", ("--profile", "preview"), "unknown manifest format"),
        ("photos.csv", "image_url\nx\n", ("--profile", "previw"), "no profile 'previw' in"),
        ("photos.csv", "image_url\nx\n", ("--profile", "large"), "v2/large: no weights at"),
    ],
)
def test_a_bad_manifest_profile_or_model_is_one_line(
    desk, monkeypatch: pytest.MonkeyPatch, name: str, content: str | None, options: tuple[str, ...], message: str
) -> None:
    monkeypatch.setenv("DEPTH_CHECKPOINTS", '{"v2/large": "/nowhere/large.safetensors"}')
    if content is not None:
        (desk.folder / name).write_text(content)
    done = commands.run("plan", str(desk.folder / name), *options)
    assert done.exit_code == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error ")
    assert message in line


def test_a_model_that_is_not_here_is_not_needed_when_the_rate_is_given(desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPTH_CHECKPOINTS", '{"v2/large": "/nowhere/large.safetensors"}')
    assert desk.plan(desk.manifest(desk.photo("1.jpg")), profile="large")["depthMapsToMake"] == 1
