"""POST /v2/uploads, what may be done with the answer, and `data:` URIs."""

import base64
import hashlib
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from depth_core.serving.artworks.store import ArtworkStore
from depth_core.serving.database import now
from depth_core.settings import Settings
from depth_core.storage import Store

BOB = {"Authorization": "Bearer bob-key-0123456789"}
NEW, UPLOADS = "/v2/artworks/depth-map", "/v2/uploads"
PHOTO = b"\xff\xd8\xff\xe0 a photo" * 100


def send(client: httpx.Client, data: bytes = PHOTO, media_type: str = "image/jpeg", **headers: str) -> httpx.Response:
    return client.post(UPLOADS, content=data, headers={"Content-Type": media_type} | headers)


def ask(client: httpx.Client, image_url: str, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
    return client.post(NEW, json={"imageUrl": image_url, "model": "tiny"} | more, headers=headers)


def faults(answer: httpx.Response) -> list[tuple[Any, str]]:
    assert answer.status_code == 400
    return [(each["loc"][1], each["type"]) for each in answer.json()["detail"]]


def test_an_upload_is_answered_with_a_url_that_requests_take(
    client: httpx.Client, artworks: ArtworkStore, settings: Settings
) -> None:
    answer = send(client)
    assert answer.status_code == 201
    upload = answer.json()
    assert set(upload) == {"id", "imageUrl", "bytes", "sha256", "expiresAt"}
    assert upload["imageUrl"] == f"http://127.0.0.1:8000/v2/uploads/{upload['id']}"
    assert answer.headers["location"] == f"/v2/uploads/{upload['id']}"
    assert (upload["bytes"], upload["sha256"]) == (len(PHOTO), hashlib.sha256(PHOTO).hexdigest())
    left = datetime.fromisoformat(upload["expiresAt"]) - now()
    assert timedelta(hours=23) < left <= timedelta(hours=24)
    asked = ask(client, upload["imageUrl"])
    assert asked.status_code == 202
    assert asked.json()["parameters"]["imageUrl"] == upload["imageUrl"]
    (claimed,) = artworks.queue.claim("w", limit=1, lease_seconds=60)
    assert str(claimed.upload_id) == upload["id"]
    assert Store(settings.store_location).read(f"uploads/{upload['id'][:2]}/{upload['id']}") == PHOTO


def test_a_form_and_bytes_are_the_same_upload_of_one_owner(client: httpx.Client) -> None:
    first = send(client).json()
    form = client.post(UPLOADS, files={"photo": ("cat.jpg", PHOTO, "image/jpeg")}, data={"note": "of no matter"})
    assert form.status_code == 201
    assert form.json()["id"] == first["id"]
    assert form.json()["expiresAt"] >= first["expiresAt"]
    assert send(client, **BOB).json()["id"] != first["id"]


def test_the_owner_gets_the_bytes_back_and_no_browser_takes_them_for_a_page(client: httpx.Client) -> None:
    place = send(client).headers["location"]
    got = client.get(place)
    assert (got.content, got.headers["content-type"], got.headers["x-content-type-options"]) == (PHOTO, "image/jpeg", "nosniff")
    assert client.get(place, headers={"Range": "bytes=2-5"}).content == PHOTO[2:6]
    assert client.head(place).headers["content-length"] == str(len(PHOTO))
    assert client.get(place, headers=BOB).status_code == 404
    page = client.post(UPLOADS, files={"file": ("a.html", b"<script>", "text/html")}).headers["location"]
    got = client.get(page)
    assert (got.headers["content-type"], got.headers["content-disposition"]) == ("application/octet-stream", "attachment")


@pytest.fixture
def small(configure: Callable[..., Settings], serving: Callable[[Settings], Any], client: httpx.Client) -> Iterator[httpx.Client]:
    """Ann's, of an API that takes small files, and calls no private address."""
    settings = configure(max_source_bytes=100_000, max_data_uri_bytes=1000, allow_private_hosts=False)
    with serving(settings) as url, httpx.Client(base_url=url, headers=client.headers, timeout=90) as small:
        yield small


def test_too_large_a_file_is_refused_while_it_comes(small: httpx.Client) -> None:
    whole = b"a" * 100_000
    pieces = [whole] + [b"a" * 1000] * 200
    assert send(small, whole).status_code == 201
    assert small.post(UPLOADS, files={"file": ("a", whole)}).status_code == 201
    for answer in (
        send(small, whole + b"a"),
        small.post(UPLOADS, content=iter(pieces), headers={"Content-Type": "image/png"}),
        small.post(UPLOADS, files={"file": ("a", whole + b"a")}),
        small.post(UPLOADS, files={"file": ("a", b"".join(pieces))}),
    ):
        assert (answer.status_code, answer.json()["message"]) == (413, "the body is larger than 100000 bytes")


def test_what_is_no_upload_says_why(client: httpx.Client) -> None:
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    for answer, status, message in (
        (send(client, b""), 400, "the file is empty"),
        (client.post(UPLOADS, files={"file": ("a.jpg", b"")}), 400, "the file is empty"),
        (client.post(UPLOADS, files={"a": ("a", b"a"), "b": ("b", b"b")}), 400, "Maximum number of files is 1"),
        (
            client.post(UPLOADS, content=b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--x--', headers=form),
            400,
            "no file",
        ),
        (client.post(UPLOADS, content=b"nonsense", headers=form), 400, ""),
        (client.post(UPLOADS, content=b"a", headers={"Content-Type": "multipart/form-data"}), 400, "boundary"),
        (send(client, PHOTO, "text/plain"), 415, "multipart/form-data"),
        (client.post(UPLOADS, data={"a": "b"}), 415, "multipart/form-data"),
        (client.get(f"{UPLOADS}/76d0ffc0-830c-4785-b328-54c564b0f004"), 404, "no upload"),
        (httpx.post(client.base_url.join(UPLOADS), content=PHOTO), 401, "API key"),
    ):
        assert (answer.status_code, message in answer.json()["message"]) == (status, True), answer.text


def test_a_form_of_another_site_is_refused_where_there_are_no_keys(
    configure: Callable[..., Settings], serving: Callable[[Settings], Any]
) -> None:
    with serving(configure(api_keys="", cors_origins=["https://friend.example"])) as url:
        form: dict[str, Any] = {"url": f"{url}{UPLOADS}", "files": {"file": ("a.jpg", PHOTO)}}
        assert httpx.post(**form, headers={"Origin": "https://other.example"}).status_code == 403
        assert httpx.post(**form, headers={"Origin": "null"}).status_code == 403
        assert httpx.post(**form, headers={"Origin": "http://["}).status_code == 403
        assert httpx.post(**form, headers={"Origin": url}).status_code == 201
        assert httpx.post(**form, headers={"Origin": "https://friend.example"}).status_code == 201
        assert httpx.post(**form).status_code == 201


def test_an_upload_that_is_not_the_callers_or_not_there_is_one_of_all_faults(small: httpx.Client) -> None:
    upload = send(small).json()["imageUrl"]
    assert ask(small, upload).status_code == 202, "though its address is a private one"
    assert faults(ask(small, upload, BOB, model="nope")) == [("model", "model_name"), ("imageUrl", "bad_url")]
    for url in (upload[:-1] + "g", f"{upload}?a", f"{upload[:-12]}000000000000"):
        answer = ask(small, url)
        assert faults(answer) == [("imageUrl", "bad_url")]
        assert "no such upload of yours" in answer.json()["message"]
    assert faults(ask(small, upload.replace("8000", "8001"))) == [("imageUrl", "blocked_address")]
    assert faults(ask(small, "https://example.com/a.jpg", webhook=upload)) == [("webhook", "blocked_address")]


def test_a_data_uri_becomes_an_upload_of_the_caller(client: httpx.Client, settings: Settings) -> None:
    key = {"Idempotency-Key": "once"}
    uri = "data:image/png;base64," + base64.b64encode(PHOTO).decode()
    answer = ask(client, uri, key)
    assert answer.status_code == 202
    url = answer.json()["parameters"]["imageUrl"]
    assert url == send(client, PHOTO).json()["imageUrl"]
    assert client.get(httpx.URL(url).path).content == PHOTO
    again = ask(client, "data:image/png," + "".join(f"%{byte:02x}" for byte in PHOTO), key)
    assert (again.status_code, again.headers["idempotent-replayed"]) == (202, "true")


def test_a_data_uri_that_is_malformed_or_too_large_is_one_of_all_faults(small: httpx.Client, settings: Settings) -> None:
    assert ask(small, "data:;base64," + base64.b64encode(b"a" * 1000).decode()).status_code == 202
    for uri, kind in (
        ("data:image/png;base64", "bad_url"),
        ("data:image/png;base64,!!!" + "A" * 20_000, "too_many_bytes"),
        ("data:image/png;base64,!!!" + "A" * 200, "bad_url"),
        ("data:;base64," + base64.b64encode(b"a" * 1001).decode(), "too_many_bytes"),
    ):
        answer = ask(small, uri, resolutionLowerLimit=300)
        assert faults(answer) == [("resolutionLowerLimit", "multiple_of"), ("imageUrl", kind)]
        assert len(answer.text) < 800, "the data is not repeated"
    assert faults(ask(small, "https://example.com/a.jpg", webhook="data:,a")) == [("webhook", "bad_url")]
    assert faults(ask(small, "https://example.com/" + "a" * 8192)) == [("imageUrl", "string_too_long")]
    assert len(list(Store(settings.store_location).keys("uploads"))) == 1, "what is refused is not kept"
