"""The API as a client sees it, over a real connection."""

import base64
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import structlog
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from support.waiting import eventually

from depth_api import long_polling
from depth_core.contract import ArtworkStatus
from depth_core.errors import ConfigurationError, ErrorKind
from depth_core.serving.artworks.store import ArtworkStore
from depth_core.serving.webhooks import endpoints, outbox
from depth_core.settings import Settings
from depth_core.storage import Store

BOB = {"Authorization": "Bearer bob-key-0123456789"}
BODY = {"imageUrl": "https://example.com/a.jpg", "model": "tiny"}
NEW = "/v2/artworks/depth-map"
JSON = {"Content-Type": "application/json"}


def post(client: httpx.Client, body: Any = BODY, **headers: str) -> httpx.Response:
    return client.post(NEW, json=body, headers=headers)


# -- creating -----------------------------------------------------------------------------------------------------------------


def test_a_post_is_answered_with_the_artwork_at_once(client: httpx.Client) -> None:
    response = post(client, {"imageUrl": "https://example.com/a.jpg"})
    assert response.status_code == 202
    artwork = response.json()
    assert response.headers["location"] == f"/v2/artworks/{artwork['id']}"
    assert set(artwork) == {"id", "artworkType", "parameters", "duration", "results", "status", "createdAt"}
    assert artwork["artworkType"] == "depth_map"
    assert artwork["status"] == "starting"
    assert artwork["duration"] == 0
    assert artwork["results"] == []
    assert artwork["parameters"] == {
        "imageUrl": "https://example.com/a.jpg",
        "invertDepth": False,
        "resolutionLowerLimit": 1024,
        "usePostResize": True,
        "useVersion3": False,
        "model": "large",
        "normalizationMode": "Standard",
    }
    assert client.get(response.headers["location"]).json() == artwork


def test_every_fault_of_a_body_is_listed_at_once(client: httpx.Client) -> None:
    response = client.post(
        NEW,
        json={
            "imageUrl": "ftp://example.com/a.jpg",
            "webhook": "nonsense",
            "resolutionLowerLimit": 300,
            "invertDepth": "yes",
            "model": "metric_large",
            "colour": "red",
            "image_url": "x",
        },
        headers={"Idempotency-Key": "k" * 256},
    )
    assert response.status_code == 400
    errors = response.json()["detail"]
    assert all(set(error) == {"loc", "msg", "type"} for error in errors)
    for error in errors:
        assert f"{error['loc'][1]}: {error['msg']}" in response.json()["message"]
    fields = ("imageUrl", "webhook", "resolutionLowerLimit", "invertDepth", "model", "colour", "image_url")
    assert sorted(error["loc"] for error in errors) == sorted(
        [["body", name] for name in fields] + [["header", "Idempotency-Key"]]
    )
    [model] = [error for error in errors if error["loc"] == ["body", "model"]]
    assert "small, base, large, giant" in model["msg"]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"normalizationMode": "Raw"}, "normalizationMode"),
        ({"normalizationMode": "Raw", "model": "tiny", "useVersion3": True}, "normalizationMode"),
        ({"model": "mono_large"}, "model"),
        ({"resolutionLowerLimit": 2112}, "resolutionLowerLimit"),
        ({"resolutionLowerLimit": 512.5}, "resolutionLowerLimit"),
        ({"resolutionLowerLimit": "512"}, "resolutionLowerLimit"),
        ({"usePostResize": 1}, "usePostResize"),
        ({"imageUrl": "file:///etc/passwd"}, "imageUrl"),
        ({"imageUrl": "s3://private/a.jpg"}, "imageUrl"),
        ({"imageUrl": "/a.jpg"}, "imageUrl"),
        ({"imageUrl": ""}, "imageUrl"),
        ({"imageUrl": None}, "imageUrl"),
        ({"imageUrl": "https://example.com/" + "a" * 9000}, "imageUrl"),
        ({"imageUrl": "https://example.com/a b"}, "imageUrl"),
        ({"imageUrl": "https://example.com/\0"}, "imageUrl"),
    ],
)
def test_a_wrong_field_is_named(client: httpx.Client, fields: dict[str, Any], named: str) -> None:
    response = post(client, {**BODY, "model": "large", **fields})
    assert response.status_code == 400
    assert [error["loc"] for error in response.json()["detail"]] == [["body", named]]


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b"[" * 20_000, b'{"\\ud800": 1}', b'{"imageUrl": "\\ud800"}', b"NaN"]
)
def test_a_body_that_is_no_request_is_a_400(client: httpx.Client, text: bytes) -> None:
    response = client.post(NEW, content=text, headers=JSON)
    assert response.status_code == 400
    assert response.json()["detail"]


def test_null_for_an_optional_field_is_the_same_as_leaving_it_out(client: httpx.Client) -> None:
    optional = [
        "invertDepth",
        "resolutionLowerLimit",
        "usePostResize",
        "webhook",
        "webhookEvents",
        "useVersion3",
        "model",
        "normalizationMode",
    ]
    url = {"imageUrl": "https://example.com/a.jpg"}
    response = post(client, url | dict.fromkeys(optional))
    assert response.status_code == 202
    assert response.json()["parameters"] == post(client, url).json()["parameters"]


def test_a_byte_order_mark_before_the_json_is_no_fault(client: httpx.Client) -> None:
    text = b'\xef\xbb\xbf{"imageUrl": "https://example.com/a.jpg", "model": "tiny", "model": "tiny"}'
    assert [each["type"] for each in client.post(NEW, content=text, headers=JSON).json()["detail"]] == ["repeated_field"]
    assert client.post(NEW, content=text.replace(b', "model": "tiny"', b"", 1), headers=JSON).status_code == 202


def test_a_slash_at_the_end_of_a_path_makes_no_difference(client: httpx.Client) -> None:
    made = client.post(f"{NEW}/", json=BODY, follow_redirects=False)
    assert made.status_code == 202
    assert client.get(f"{made.headers['location']}/", follow_redirects=False).json() == made.json()
    assert client.get("/v2/artworks/", follow_redirects=False).status_code == 200


def test_head_is_answered_wherever_get_is(client: httpx.Client) -> None:
    path = post(client).headers["location"]
    for target in ("/health/live", "/health/ready", "/metrics", "/v2/artworks", path):
        asked, whole = client.head(target), client.get(target)
        assert (asked.status_code, asked.content) == (200, b""), target
        assert asked.headers["content-type"] == whole.headers["content-type"]
    assert client.head("/v2/artworks", headers={"Authorization": "none"}).status_code == 401
    assert client.head(f"/v2/artworks/{uuid4()}").status_code == 404


def test_a_whole_number_may_be_written_with_a_point(client: httpx.Client) -> None:
    response = client.post(
        NEW, content=b'{"imageUrl": "https://example.com/a.jpg", "resolutionLowerLimit": 5.12e2}', headers=JSON
    )
    assert response.json()["parameters"]["resolutionLowerLimit"] == 512


def test_a_body_of_another_type_is_refused(client: httpx.Client) -> None:
    assert client.post(NEW, content=b"{}", headers={"Content-Type": "text/plain"}).status_code == 415
    assert client.post(NEW, data={"imageUrl": "https://example.com"}).status_code == 415


def test_a_body_that_is_too_large_is_refused_with_and_without_a_length(client: httpx.Client) -> None:
    large = b'{"imageUrl": "' + b"a" * 2_000_000 + b'"}'
    assert client.post(NEW, content=large, headers=JSON).status_code == 413
    pieces = (large[start : start + 100_000] for start in range(0, len(large), 100_000))
    assert client.post(NEW, content=pieces, headers=JSON).status_code == 413
    assert post(client).status_code == 202


def test_a_body_that_is_announced_as_too_large_is_refused_before_it_is_sent(url: str, client: httpx.Client) -> None:
    where = httpx.URL(url)
    lines = (
        f"POST {NEW} HTTP/1.1",
        f"Host: {where.host}",
        f"Authorization: {client.headers['authorization']}",
        "Content-Type: application/json",
        "Content-Length: 2000000",
        "Expect: 100-continue",
    )
    with socket.create_connection((where.host, where.port or 80), timeout=30) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_a_field_that_is_given_twice_is_a_400_with_the_other_faults(client: httpx.Client) -> None:
    text = b'{"imageUrl": "https://example.com/a.jpg", "model": "nope", "model": "tiny"}'
    response = client.post(NEW, content=text, headers=JSON)
    assert response.status_code == 400
    assert [(error["loc"], error["type"]) for error in response.json()["detail"]] == [(["body", "model"], "repeated_field")]
    text = b'{"imageUrl": "https://example.com/a.jpg", "model": "tiny", "model": "nope", "colour": {"a": 1, "a": 2}}'
    detail = client.post(NEW, content=text, headers=JSON).json()["detail"]
    named = [(error["loc"][1], error["type"]) for error in detail]
    assert named == [("model", "model_name"), ("colour", "extra_forbidden"), ("model", "repeated_field")]
    assert "valid: " in detail[0]["msg"]


def test_a_domain_that_idna_forbids_is_taken_in_punycode(
    configure: Callable[..., Settings], serving: Callable[[Settings], Any]
) -> None:
    with serving(configure(allow_private_hosts=False)) as url, httpx.Client(base_url=url, headers=BOB) as client:
        assert post(client, {**BODY, "imageUrl": "https://xn--ls8h.example/a.jpg"}).status_code == 202


def test_the_scheme_of_a_url_may_be_written_in_capitals(client: httpx.Client) -> None:
    response = post(client, {**BODY, "imageUrl": "HTTP://example.com/a.jpg", "webhook": "Https://example.com/hook"})
    assert response.status_code == 202
    assert response.json()["parameters"]["imageUrl"] == "HTTP://example.com/a.jpg"


def test_addresses_that_may_not_be_called_are_refused_at_once(
    configure: Callable[..., Settings], serving: Callable[[Settings], Any]
) -> None:
    with serving(configure(allow_private_hosts=False)) as url, httpx.Client(base_url=url, headers=BOB) as client:
        for bad in (
            "http://127.0.0.1/a",
            "http://2130706433/a",
            "http://10.0.0.1/",
            "http://example.com:22/",
            "http://u:p@example.com/",
        ):
            response = post(client, {**BODY, "imageUrl": bad, "webhook": bad})
            assert response.status_code == 400, bad
            assert [error["type"] for error in response.json()["detail"]] == ["blocked_address"] * 2, bad
        assert post(client).status_code == 202


def test_buckets_on_the_list_may_be_named(configure: Callable[..., Settings], serving: Callable[[Settings], Any]) -> None:
    with serving(configure(image_buckets=["photos"])) as url, httpx.Client(base_url=url, headers=BOB) as client:
        assert post(client, {**BODY, "imageUrl": "s3://photos/a/b.jpg"}).status_code == 202
        assert post(client, {**BODY, "imageUrl": "s3://photos2/a.jpg"}).status_code == 400
        assert post(client, {**BODY, "webhook": "s3://photos/a.jpg"}).status_code == 400


# -- Idempotency-Key ----------------------------------------------------------------------------------------------------------


def test_the_same_idempotency_key_and_body_is_the_same_answer(client: httpx.Client) -> None:
    headers = {"Idempotency-Key": "order 66"}
    first = client.post(NEW, json=BODY, headers=headers)
    spelt_out = {"usePostResize": True, "model": "tiny", "imageUrl": BODY["imageUrl"], "webhook": None}
    again = client.post(NEW, json=spelt_out, headers=headers)
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json() == first.json()
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert len(client.get("/v2/artworks").json()) == 1


def test_the_same_idempotency_key_with_another_body_is_a_409(client: httpx.Client) -> None:
    headers = {"Idempotency-Key": "k"}
    client.post(NEW, json=BODY, headers=headers)
    response = client.post(NEW, json={**BODY, "invertDepth": True}, headers=headers)
    assert response.status_code == 409
    assert "another body" in response.json()["message"]
    assert client.post(NEW, json={**BODY, "invertDepth": True}, headers=headers | BOB).status_code == 202


def test_an_idempotency_key_that_is_too_long_is_a_400(client: httpx.Client) -> None:
    response = client.post(NEW, json=BODY, headers={"Idempotency-Key": "k" * 256})
    assert [error["loc"] for error in response.json()["detail"]] == [["header", "Idempotency-Key"]]


# -- Prefer: wait -------------------------------------------------------------------------------------------------------------


def test_prefer_wait_answers_when_the_artwork_is_done(client: httpx.Client, finish: Callable[..., Any]) -> None:
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.05):
            finish()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        response = client.post(NEW, json=BODY, headers={"Prefer": "respond-async, wait=30", "Idempotency-Key": "k"})
    finally:
        stop.set()
        worker.join()
    assert response.status_code == 200
    assert response.headers["preference-applied"] == "wait=30"
    assert response.json()["status"] == "succeeded"
    assert len(response.json()["results"]) == 2
    again = client.post(NEW, json=BODY, headers={"Idempotency-Key": "k"})
    assert (again.status_code, again.json()) == (200, response.json())


def test_prefer_wait_answers_202_when_the_time_is_over(client: httpx.Client) -> None:
    headers = {"Prefer": "wait=1", "Idempotency-Key": "k"}
    response = client.post(NEW, json=BODY, headers=headers)
    assert response.status_code == 202
    assert response.json()["status"] == "starting"
    client.post(f"/v2/artworks/{response.json()['id']}/cancel")
    again = client.post(NEW, json=BODY, headers=headers)
    assert (again.status_code, again.json()["status"]) == (202, "canceled")


def test_a_replay_has_its_first_answer_s_status_code_and_does_not_claim_to_have_waited(client: httpx.Client) -> None:
    first = client.post(NEW, json=BODY, headers={"Idempotency-Key": "k"})
    again = client.post(NEW, json=BODY, headers={"Idempotency-Key": "k", "Prefer": "wait=5"})
    assert (again.status_code, again.json()) == (202, first.json())
    assert "preference-applied" not in again.headers


def test_a_wait_that_saw_the_end_is_a_200_though_a_replay_was_answered_meanwhile(
    client: httpx.Client, finish: Callable[..., Any], artworks: ArtworkStore
) -> None:
    answers: list[httpx.Response] = []
    first = threading.Thread(target=lambda: answers.append(post(client, **{"Idempotency-Key": "k", "Prefer": "wait=30"})))
    first.start()
    eventually(lambda: artworks.queue.waiting()[0])
    meanwhile = post(client, **{"Idempotency-Key": "k"})
    assert (meanwhile.status_code, meanwhile.json()["status"]) == (202, "starting")
    assert meanwhile.headers["idempotent-replayed"] == "true"
    finish()
    first.join()
    assert (answers[0].status_code, answers[0].json()["status"]) == (200, "succeeded")
    assert answers[0].json()["id"] == meanwhile.json()["id"]
    assert post(client, **{"Idempotency-Key": "k"}).status_code == 200


@contextmanager
def without_artworks(settings: Settings) -> Iterator[None]:
    """The database has lost a table, for as long as the block runs."""
    with closing(sqlite3.connect(settings.data / "depthline.db", timeout=60)) as connection:
        connection.execute("ALTER TABLE artworks RENAME TO elsewhere")
        try:
            yield
        finally:
            connection.execute("ALTER TABLE elsewhere RENAME TO artworks")


def test_a_wait_outlives_a_database_that_fails_for_a_while(
    client: httpx.Client, finish: Callable[..., Any], artworks: ArtworkStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_polling, "RETRY_SECONDS", 0.01)
    answers: list[httpx.Response] = []
    waiting = threading.Thread(target=lambda: answers.append(post(client, Prefer="wait=30")))
    waiting.start()
    eventually(lambda: artworks.queue.waiting()[0])
    with structlog.testing.capture_logs() as lines, without_artworks(settings):
        eventually(lambda: sum("requests keep waiting" in line["event"] for line in lines) >= 2)
    finish()
    waiting.join()
    assert (answers[0].status_code, answers[0].json()["status"]) == (200, "succeeded")


def test_preferences_may_stand_on_several_lines_and_a_long_wait_is_the_longest_there_is(
    client: httpx.Client, artworks: ArtworkStore
) -> None:
    ended = threading.Event()

    def cancel() -> None:
        while not ended.wait(0.05):
            for artwork in artworks.page(status=ArtworkStatus.STARTING).artworks:
                artworks.cancel(artwork.id)

    canceller = threading.Thread(target=cancel)
    canceller.start()
    try:
        for lines, granted in (
            (["respond-async", "wait=7"], "wait=7"),
            (["wait=10000000000"], "wait=60"),
            (["wait=007"], "wait=7"),
        ):
            headers = [("Prefer", line) for line in lines]
            response = client.post(NEW, json=BODY, headers=headers)
            assert (response.status_code, response.headers["preference-applied"]) == (200, granted)
    finally:
        ended.set()
        canceller.join()


@pytest.mark.parametrize("prefer", ["wait", "wait=x", "wait=-1", "awaits=9", "return=minimal", ""])
def test_other_preferences_are_ignored(client: httpx.Client, prefer: str) -> None:
    response = client.post(NEW, json=BODY, headers={"Prefer": prefer})
    assert response.status_code == 202
    assert "preference-applied" not in response.headers


# -- reading ------------------------------------------------------------------------------------------------------------------


def ids_of(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [artwork["id"] for artwork in response.json()]


def test_artworks_are_listed_newest_first_by_offset_or_from_page_to_page(client: httpx.Client) -> None:
    ids = [post(client).json()["id"] for _ in range(12)][::-1]
    assert ids_of(client.get("/v2/artworks")) == ids[:10]
    assert ids_of(client.get("/v2/artworks", params={"offset": 3, "limit": 2})) == ids[3:5]
    assert ids_of(client.get("/v2/artworks", params={"offset": 10**30})) == []
    page = client.get("/v2/artworks", params={"offset": 1, "limit": 5})
    seen = ids_of(page)
    post(client)
    while "next" in page.links:
        page = client.get(page.links["next"]["url"])
        seen += ids_of(page)
    assert seen == ids[1:]


def test_a_list_may_be_filtered_and_so_are_its_next_pages(client: httpx.Client) -> None:
    made = [post(client).json() for _ in range(5)]
    for artwork in made[:3]:
        client.post(f"/v2/artworks/{artwork['id']}/cancel")
    ids = [artwork["id"] for artwork in made]
    first = client.get("/v2/artworks", params={"status": "canceled", "artworkType": "depth_map", "limit": 2})
    assert ids_of(first) + ids_of(client.get(first.links["next"]["url"])) == ids[2::-1]
    between = {"createdAfter": made[1]["createdAt"], "createdBefore": made[4]["createdAt"].replace("Z", "+00:00")}
    assert ids_of(client.get("/v2/artworks", params=between)) == ids[3:1:-1]


@pytest.mark.parametrize(
    "query",
    [
        {"status": "done"},
        {"artworkType": "video"},
        {"offset": -1},
        {"limit": 0},
        {"limit": 501},
        {"limit": "x"},
        {"cursor": "x"},
        {"createdAfter": "yesterday"},
        {"createdAfter": "17"},
        {"createdBefore": "2026-01-31T12:00:00"},
        {"createdBefore": "2026-02-31T12:00:00Z"},
        {"createdAfter": "0001-01-01T00:00:00+14:00"},
        {"createdBefore": "9999-12-31T23:59:59-14:00"},
    ],
)
def test_a_wrong_query_is_a_400_that_names_it(client: httpx.Client, query: dict[str, Any]) -> None:
    response = client.get("/v2/artworks", params=query)
    assert response.status_code == 400
    assert [error["loc"] for error in response.json()["detail"]] == [["query", *query]]


def test_an_artwork_of_another_key_is_not_there(client: httpx.Client, finish: Callable[..., Any]) -> None:
    path = post(client).headers["location"]
    finish()
    for method, target in [("GET", path), ("POST", f"{path}/cancel"), ("GET", f"{path}/results/depth.png")]:
        assert client.request(method, target, headers=BOB).status_code == 404
    assert client.get("/v2/artworks", headers=BOB).json() == []
    assert client.get(f"/v2/artworks/{uuid4()}").status_code == 404
    assert client.get("/v2/artworks/none").status_code == 404
    assert client.get(NEW).status_code == 405
    assert client.post("/docs/assets/swagger-ui.css").headers["allow"] == "GET, HEAD"


def test_cancelling_ends_what_waits_and_leaves_what_is_done(client: httpx.Client, finish: Callable[..., Any]) -> None:
    path = post(client).headers["location"]
    assert client.post(f"{path}/cancel").json()["status"] == "canceled"
    assert client.post(f"{path}/cancel").json()["status"] == "canceled"
    done = post(client).headers["location"]
    finish()
    assert client.post(f"{done}/cancel").json()["status"] == "succeeded"


def test_a_failed_artwork_says_why(client: httpx.Client, artworks: ArtworkStore) -> None:
    path = post(client).headers["location"]
    [claimed] = artworks.queue.claim("test", limit=1, lease_seconds=60)
    artworks.queue.fail(claimed.id, "test", ErrorKind.NOT_FOUND, "https://example.com/a.jpg: 404")
    artwork = client.get(path).json()
    assert artwork["status"] == "failed"
    assert artwork["error"] == {"kind": "not_found", "message": "https://example.com/a.jpg: 404"}


# -- results ------------------------------------------------------------------------------------------------------------------


def test_results_are_streamed_with_type_length_etag_and_range(client: httpx.Client, finish: Callable[..., Any]) -> None:
    path = post(client).headers["location"]
    files = finish()
    results = client.get(path).json()["results"]
    assert results == [f"http://127.0.0.1:8000{path}/results/depth.png", f"http://127.0.0.1:8000{path}/results/depth.json"]
    png = f"{path}/results/depth.png"
    whole = client.get(png)
    assert whole.content == files["depth.png"]
    assert whole.headers["content-type"] == "image/png"
    assert whole.headers["content-length"] == "1024"
    assert client.get(f"{path}/results/depth.json").headers["content-type"] == "application/json"

    part = client.get(png, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, files["depth.png"][10:20])
    assert part.headers["content-range"] == "bytes 10-19/1024"
    assert client.get(png, headers={"Range": "bytes=-4"}).content == files["depth.png"][-4:]
    assert client.get(png, headers={"Range": "bytes=5000-"}).status_code == 416
    etag = whole.headers["etag"]
    assert client.get(png, headers={"Range": "bytes=0-1", "If-Range": etag}).status_code == 206
    assert client.get(png, headers={"Range": "bytes=0-1", "If-Range": '"old"'}).status_code == 200
    assert client.get(png, headers={"If-None-Match": f'"x", {etag}'}).status_code == 304
    assert client.get(png, headers={"If-None-Match": "*"}).status_code == 304
    unknown = client.get(png, headers={"Range": "lines=1-2"})
    assert (unknown.status_code, unknown.content) == (200, files["depth.png"])
    assert client.get(png, headers={"Range": "bytes=x"}).status_code == 400
    assert client.head(png, headers={"Range": "bytes=0-1"}).headers["content-length"] == "1024"
    head = client.head(png)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "1024")


def test_the_name_of_the_file_that_a_bulk_run_read_is_not_told_to_a_client_who_sent_the_same_bytes(
    client: httpx.Client, finish: Callable[..., Any]
) -> None:
    path = post(client).headers["location"]
    finish(**{"depth.png": b"png", "depth.json": b'{"model": "tiny", "sourceName": "/home/ann/secret.jpg"}'})
    answer = client.get(f"{path}/results/depth.json")
    assert answer.json() == {"model": "tiny", "sourceName": ""}
    assert answer.headers["content-type"] == "application/json"
    assert client.head(f"{path}/results/depth.json").headers["content-length"] == str(len(answer.content))
    assert client.get(f"{path}/results/depth.json", headers={"If-None-Match": answer.headers["etag"]}).status_code == 304


def test_what_is_no_result_is_not_served(client: httpx.Client, finish: Callable[..., Any], settings: Settings) -> None:
    path = post(client).headers["location"]
    assert client.get(f"{path}/results/depth.png").status_code == 404
    finish()
    for name in ("depth16.png", "..%2Fdepth.json", "%2e%2e/%2e%2e/depthline.db", "", "."):
        assert client.get(f"{path}/results/{name}").status_code == 404, name
    assert client.get(f"{path}/results/depth.png").status_code == 200
    for key in Store(settings.store_location).keys("requests"):
        Store(settings.store_location).delete(key)
    assert client.get(f"{path}/results/depth.png").status_code == 404


def test_results_in_a_bucket_are_a_signed_redirect(
    configure: Callable[..., Settings],
    serving: Callable[[Settings], Any],
    artworks: ArtworkStore,
    monkeypatch: pytest.MonkeyPatch,
    s3_endpoint: str,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    options = {"endpoint_url": s3_endpoint}
    settings = configure(store_url="s3://depth/maps", store_options=options)
    store = Store(settings.store_location, options)
    store.fs.mkdir("depth")
    with serving(settings) as url, httpx.Client(base_url=url, headers=BOB) as client:
        path = post(client).headers["location"]
        [claimed] = artworks.queue.claim("test", limit=1, lease_seconds=60)
        store.write("depth/x/depth.png", b"pixels", content_type="image/png")
        artworks.queue.finish(claimed.id, "test", folder="depth/x", results=["depth.png"], seconds={})
        response = client.get(f"{path}/results/depth.png")
        assert response.status_code == 307
        assert "Signature" in response.headers["location"]
        file = httpx.get(response.headers["location"], headers={"Range": "bytes=1-2"})
        assert (file.status_code, file.content, file.headers["content-type"]) == (206, b"ix", "image/png")
        head = client.head(f"{path}/results/depth.png", follow_redirects=True)
        assert (head.status_code, head.headers["content-length"]) == (200, "6")
        assert "Signature" in str(head.url)
        assert client.get("/health/ready").json()["store"] == {"ok": True, "detail": ""}


# -- operations ---------------------------------------------------------------------------------------------------------------


def test_health_says_what_works(own_client: httpx.Client, artworks: ArtworkStore) -> None:
    assert own_client.get("/health/live").json() == {"status": "live"}
    ready = own_client.get("/health/ready")
    assert ready.status_code == 200
    assert ready.json() == {
        "status": "ready",
        "database": {"ok": True, "detail": ""},
        "store": {"ok": True, "detail": ""},
        "lastWorkerSeconds": None,
        "liveWorkers": 0,
        "waiting": 0,
    }
    post(own_client)
    artworks.workers.start("w", "cpu")
    ready = own_client.get("/health/ready").json()
    assert ready["liveWorkers"] == 1
    assert ready["waiting"] == 1
    assert 0 <= ready["lastWorkerSeconds"] < 60


def test_a_store_that_cannot_be_written_is_not_ready(
    configure: Callable[..., Settings], serving: Callable[[Settings], Any], tmp_path: Path
) -> None:
    (tmp_path / "a-file").write_text("")
    with serving(configure(store_url=str(tmp_path / "a-file" / "store"))) as url:
        response = httpx.get(f"{url}/health/ready")
    assert response.status_code == 503
    assert response.json()["status"] == "not ready"
    assert response.json()["message"] == "no answer from the store"
    assert response.json()["database"]["ok"] is True
    assert "cannot write" in response.json()["store"]["detail"]


def test_a_database_that_does_not_work_is_a_503(own_client: httpx.Client, settings: Settings) -> None:
    post(own_client)
    with without_artworks(settings):
        response = own_client.get("/v2/artworks")
        assert response.status_code == 503
        assert response.headers["retry-after"] == "5"
        assert own_client.get("/health/ready").status_code == 503
        assert own_client.get("/health/live").status_code == 200
        lines = own_client.get("/metrics").text.splitlines()
    assert "depthline_database_up 0.0" in lines
    assert 'depthline_http_requests_total{method="GET",route="/v2/artworks",status="503"} 1.0' in lines


def test_metrics_tell_requests_artworks_queue_and_stages(own_client: httpx.Client, finish: Callable[..., Any]) -> None:
    post(own_client)
    finish()
    post(own_client)
    own_client.get("/nowhere")
    own_client.get(f"/v2/artworks/{uuid4()}")
    lines = own_client.get("/metrics").text.splitlines()
    assert 'depthline_artworks{status="succeeded"} 1.0' in lines
    assert 'depthline_artworks{status="starting"} 1.0' in lines
    assert "depthline_database_up 1.0" in lines
    assert "depthline_queue_depth 1.0" in lines
    assert 'depthline_stage_seconds_total{stage="predict"} 0.25' in lines
    assert 'depthline_http_requests_total{method="POST",route="/v2/artworks/depth-map",status="202"} 2.0' in lines
    assert 'depthline_http_requests_total{method="GET",route="/v2/artworks/{artwork_id}",status="404"} 1.0' in lines
    assert 'depthline_http_requests_total{method="other",route="other",status="404"} 1.0' in lines
    assert any(line.startswith("depthline_queue_age_seconds ") for line in lines)
    assert 'depthline_webhooks{state="pending"} 0.0' in lines
    assert 'depthline_webhook_endpoints{state="disabled"} 0.0' in lines


def test_the_openapi_document_and_its_page_are_there(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert set(document["paths"]) == {
        "/v2/artworks/depth-map",
        "/v2/artworks",
        "/v2/artworks/{artwork_id}",
        "/v2/artworks/{artwork_id}/cancel",
        "/v2/artworks/{artwork_id}/results/{name}",
        "/v2/models",
        "/v2/uploads",
        "/v2/uploads/{upload_id}",
        "/health/live",
        "/health/ready",
        "/metrics",
    }
    assert client.get("/docs").status_code == 200


def test_the_openapi_document_promises_what_the_reference_does(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    artwork = document["components"]["schemas"]["Artwork"]
    required = ["id", "artworkType", "parameters", "duration", "results", "status", "createdAt"]
    assert artwork["required"] == required
    assert artwork["properties"]["error"]["$ref"].endswith("/ArtworkError")
    assert artwork["properties"]["parameters"] == {"$ref": "#/components/schemas/AcceptedParameters"}
    parameters = document["components"]["schemas"]["AcceptedParameters"]
    assert set(parameters["required"]) == set(post(client).json()["parameters"])
    limit = parameters["properties"]["resolutionLowerLimit"]
    assert (limit["type"], limit["minimum"], limit["maximum"], limit["default"]) == ("integer", 256, 2048, 1024)
    assert parameters["properties"]["webhook"]["format"] == "uri"
    answers = document["paths"][NEW]["post"]["responses"]
    assert set(answers["202"]["headers"]) == set(answers["200"]["headers"])
    assert set(answers["202"]["headers"]) == {"Location", "Preference-Applied", "Idempotent-Replayed", "Webhook-Disabled"}
    assert set(answers["429"]["headers"]) == set(answers["503"]["headers"]) == {"Retry-After"}
    result = document["paths"]["/v2/artworks/{artwork_id}/results/{name}"]["get"]["responses"]
    assert "ETag" in result["200"]["headers"]


def test_the_api_loads_neither_torch_nor_dagster_nor_pandas() -> None:
    program = (
        "import sys; from depth_api.app import create_app; create_app(); "
        "print([name for name in ('torch', 'transformers', 'dagster', 'pandas', 'numpy', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_api_delivers_webhooks_by_itself(
    configure: Callable[..., Settings], serving: Callable[[Settings], Any], artworks: ArtworkStore
) -> None:
    with serving(configure(webhooks_in_api=True)) as url, httpx.Client(base_url=url, headers=BOB) as client:
        # The API itself is the receiver: it refuses the message, and that is an attempt with an answer.
        path = post(client, {**BODY, "webhook": f"{url}/health/live"}).headers["location"]
        client.post(f"{path}/cancel")
        tried = eventually(lambda: outbox.deliveries(artworks, UUID(path[-36:]))[0][1])
    assert tried[0].status_code == 405


def test_an_answer_says_that_nothing_is_sent_to_its_webhook(client: httpx.Client, artworks: ArtworkStore) -> None:
    hook = "https://hooks.example/x"
    with artworks.database.write() as connection:
        for day in range(1, 7):
            at = datetime(2026, 1, day, tzinfo=UTC)
            endpoints.failed(connection, "ann", hook, at=at, error="HTTP 500", after_days=5)
    answer = post(client, {**BODY, "webhook": f"{hook}?id=1"})
    assert (answer.status_code, answer.headers["webhook-disabled"]) == (202, "2026-01-06T00:00:00Z")
    for webhook, headers in ((f"{hook}/y", {}), (None, {}), (hook, BOB)):
        again = client.post(NEW, json={**BODY, "webhook": webhook}, headers=headers)
        assert again.status_code == 202
        assert "webhook-disabled" not in again.headers
    assert 'depthline_webhook_endpoints{state="disabled"} 1.0' in client.get("/metrics").text.splitlines()


# -- anything at all ----------------------------------------------------------------------------------------------------------

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_FIELDS = st.sampled_from([*BODY, "webhook", "invertDepth", "resolutionLowerLimit", "useVersion3", "normalizationMode", "x"])


@hypothesis_settings(max_examples=40)
@given(changes=st.dictionaries(_FIELDS, _JSON | st.text(max_size=50).map(lambda text: f"https://{text}"), max_size=4))
def test_any_body_is_accepted_or_refused_never_an_error(client: httpx.Client, changes: dict[str, Any]) -> None:
    response = post(client, {**BODY, **changes})
    assert response.status_code in (202, 400)
    if response.status_code == 202:
        assert client.get(response.headers["location"]).json()["parameters"]["imageUrl"] == {**BODY, **changes}["imageUrl"]


@pytest.mark.parametrize("path", ["/v2/artworks/%00", "/v2/artworks?cursor=%00", "/v2/artworks?cursor=" + "_" * 32, "/%ff%fe"])
def test_odd_paths_are_refused_and_nothing_breaks(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code in (200, 404, 400)


def test_basic_credentials_are_not_a_key(client: httpx.Client) -> None:
    basic = base64.b64encode(b"ann:ann-key-0123456789").decode()
    assert client.get("/v2/artworks", headers={"Authorization": f"Basic {basic}"}).status_code == 401


def test_wrong_keys_are_a_configuration_error(configure: Callable[..., Settings]) -> None:
    from depth_api.app import create_app

    for keys in ("nonsense", "ann:short", ":" + "k" * 20):
        with pytest.raises(ConfigurationError) as caught:
            create_app(configure(api_keys=keys))
        assert "k" * 20 not in str(caught.value)


def test_an_output_file_that_does_not_exist_is_a_configuration_error(configure: Callable[..., Settings]) -> None:
    from depth_api.app import create_app

    with pytest.raises(ConfigurationError, match=r"DEPTH_API_FORMATS: no output file cloud\.ply"):
        create_app(configure(api_formats=["cloud.ply"]))
