"""The API against its contract, word for word: tests/data/contract has the published reference and the page that completes it."""

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import pytest
from jsonschema import Draft202012Validator

from depth_core.contract import NormalizationMode

PAGES = Path(__file__).parents[1] / "data" / "contract"
REFERENCE = (PAGES / "reference.txt").read_text("utf-8")
PAGE = (PAGES / "depth-map.md").read_text("utf-8")
NEW = "/v2/artworks/depth-map"
ASKED = {"imageUrl": "https://example.com/a.jpg"}


# -- what the pages say -------------------------------------------------------------------------------------------------------


@dataclass
class Field:
    """A field as the reference has it."""

    name: str
    kind: str
    required: bool
    values: list[str]
    least: int | None
    most: int | None
    default: str | None


def _fields(text: str) -> dict[str, Field]:
    """The fields of a part of the reference: a line with name and type, then lines about it."""
    kinds = r"(uri|uuid|boolean|integer|string\[\]|string|number|date-time)"
    heads = list(re.finditer(rf"^ +(\w+) {kinds}(required)?$", text, re.MULTILINE))
    found = {}
    for head, after in zip(heads, [*heads[1:], None], strict=True):
        about = text[head.end() : after.start() if after else None]
        values = re.search(r"Possible values: \[(.*)\]", about)
        limits = re.search(r"Possible values: >= (\d+) and <= (\d+)", about)
        default = re.search(r"Default value: (\S+)", about)
        found[head[1]] = Field(
            head[1],
            head[2],
            head[3] is not None,
            values[1].split(", ") if values else [],
            int(limits[1]) if limits else None,
            int(limits[2]) if limits else None,
            default[1] if default else None,
        )
    return found


_REQUEST, _, _ANSWER = REFERENCE.partition("Responses\n")
BODY, ARTWORK = _fields(_REQUEST), _fields(_ANSWER)
V2, V3 = (re.search(rf"{version}: ([\w, ]+)\.", _REQUEST)[1].split(", ") for version in ("V2", "V3"))  # type: ignore[index]


def _rows(start: str) -> dict[str, list[str]]:
    """A table of the page, by its first column."""
    table = PAGE[PAGE.index(start) :].partition("\n\n")[0]
    return {
        row[0].strip("` "): [cell.strip() for cell in row[1:]] for row in (line[2:-2].split(" | ") for line in table.splitlines())
    }


FIELDS, CALLS = _rows("| field | type, limits"), _rows("| call | answer")


def test_the_pages_are_read_as_they_are_meant() -> None:
    assert list(BODY) == [name for name in FIELDS if name not in ("field", "---")]
    assert len(BODY) == 8
    assert set(ARTWORK) >= {"id", "artworkType", "duration", "results", "status", "createdAt", *BODY}
    assert (V2, V3[-1]) == (["giant", "large", "base", "small"], "nested_giant_large")
    assert (BODY["resolutionLowerLimit"].least, BODY["resolutionLowerLimit"].most) == (256, 2048)


# -- requests -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def document(shared_url: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{shared_url}/openapi.json").json()
    return found


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """A schema, found where it refers to."""
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


@pytest.mark.parametrize("name", BODY)
def test_a_field_of_the_request_is_documented_with_the_reference_s_type_limits_and_default(
    document: dict[str, Any], name: str
) -> None:
    content = document["paths"][NEW]["post"]["requestBody"]["content"]["application/json"]
    schema = resolved(document, content["schema"])
    field, said = schema["properties"][name], BODY[name]
    either = [resolved(document, each) for each in field.get("anyOf", [field])]
    kinds = {kind for each in either for kind in ([each["type"]] if isinstance(each["type"], str) else each["type"])}
    assert kinds - {"null"} == {"string" if said.kind in ("uri", "string") else said.kind}
    assert (name in schema["required"]) is said.required is ("null" not in kinds)
    if said.kind == "uri":
        assert "uri" in [each.get("format") for each in either]
    if said.values:
        assert [value for each in either for value in each.get("enum", ()) if value is not None] == said.values
    if said.least is not None:
        assert (field["minimum"], field["maximum"], field["multipleOf"]) == (said.least, said.most, 64)
    if said.default:
        assert str(field["default"]) == said.default


def parameters_of(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = client.post(NEW, json={**ASKED, **fields})
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()["parameters"]
    return found


def test_what_a_request_leaves_out_has_the_reference_s_default(client: httpx.Client) -> None:
    filled = parameters_of(client)
    for name, field in BODY.items():
        default = field.default or {"boolean": "False", "uri": None}[field.kind]
        if name == "usePostResize":
            default = "True"  # the page says so
            assert FIELDS[name][1] == "true"
        if default is not None:
            assert str(filled[name]) == default, name
        elif not field.required:
            assert name not in filled


def test_exactly_the_reference_s_models_and_modes_are_taken(client: httpx.Client) -> None:
    for version_3, models in ((False, V2), (True, V3)):
        for model in {*V2, *V3}:
            status = client.post(NEW, json={**ASKED, "useVersion3": version_3, "model": model}).status_code
            assert status == (202 if model in models else 400), (version_3, model)
    for mode in BODY["normalizationMode"].values:
        assert parameters_of(client, useVersion3=True, normalizationMode=mode)["normalizationMode"] == mode
        wanted = 202 if mode == NormalizationMode.STANDARD else 400
        assert client.post(NEW, json={**ASKED, "normalizationMode": mode}).status_code == wanted, "V3 only"


@pytest.mark.parametrize(("limit", "status"), [(256, 202), (2048, 202), (192, 400), (2112, 400), (1000, 400)])
def test_the_limit_of_resolution_has_the_reference_s_range(client: httpx.Client, limit: int, status: int) -> None:
    answer = client.post(NEW, json={**ASKED, "resolutionLowerLimit": limit})
    assert answer.status_code == status


# -- answers ------------------------------------------------------------------------------------------------------------------


def test_an_artwork_has_the_reference_s_fields_types_and_values(
    document: dict[str, Any], client: httpx.Client, finish: Any
) -> None:
    schema = document["components"]["schemas"]["Artwork"]
    waiting = client.post(NEW, json={**ASKED, "webhook": "https://example.com/hook"}).json()
    finish()
    done = client.get(f"/v2/artworks/{waiting['id']}").json()
    own = ("id", "artworkType", "parameters", "duration", "results", "status", "createdAt")
    for artwork in (waiting, done):
        assert set(artwork) == set(own) == set(schema["required"])
        Draft202012Validator(schema | {"components": document["components"]}).validate(artwork)
        assert set(artwork["parameters"]) == set(BODY), "as accepted, defaults filled in"
        UUID(artwork["id"])
        assert artwork["artworkType"] in ARTWORK["artworkType"].values
        assert isinstance(artwork["duration"], int | float)
        assert datetime.fromisoformat(artwork["createdAt"]).utcoffset() is not None
    assert resolved(document, schema["properties"]["status"])["enum"] == ARTWORK["status"].values
    assert (waiting["status"], waiting["duration"], waiting["results"]) == ("starting", 0, [])
    assert done["status"] == "succeeded"
    assert all(urlsplit(each).scheme == "http" for each in done["results"])


def test_the_calls_of_the_page_answer_as_it_says(client: httpx.Client) -> None:
    listing = "GET /v2/artworks?offset=&limit="
    assert {f"POST {NEW}", listing, "GET /v2/artworks/{id}"} <= set(CALLS)
    for _ in range(11):
        made = client.post(NEW, json=ASKED)
    listed = client.get("/v2/artworks")
    assert isinstance(listed.json(), list)
    default = int(re.search(r"`limit` 1 to 500 \(default (\d+)\)", CALLS[listing][0])[1])  # type: ignore[index]
    assert len(listed.json()) == default == 10
    assert listed.json()[0] == made.json(), "newest first"
    assert client.get("/v2/artworks", params={"offset": 0, "limit": 500}).status_code == 200
    for wrong in ({"limit": 501}, {"limit": 0}, {"offset": -1}):
        assert client.get("/v2/artworks", params=wrong).status_code == 400
    assert client.get(f"/v2/artworks/{made.json()['id']}").json() == made.json()
    assert client.get("/v2/artworks/00000000-0000-4000-8000-000000000000").status_code == 404


def test_every_error_has_the_shape_of_the_page(client: httpx.Client, finish: Any) -> None:
    path = client.post(NEW, json=ASKED).headers["location"]
    finish()
    file = f"{path}/results/depth.png"
    errors = {
        400: [
            client.post(NEW, json={"model": "nope"}),
            client.post(NEW, content=b"{", headers={"Content-Type": "application/json"}),
        ],
        401: [client.get("/v2/artworks", headers={"Authorization": key}) for key in ("", "Bearer unknown")],
        404: [client.get("/nowhere"), client.get("/v2/artworks/x")],
        405: [client.put(NEW, json={})],
        413: [client.post(NEW, content=b" " * 10**7, headers={"Content-Type": "application/json"})],
        415: [client.post(NEW, content=b"x")],
        416: [client.get(file, headers={"Range": "bytes=5000-"})],
    }
    errors[400].append(client.get(file, headers={"Range": "bytes=x"}))
    for status, answers in errors.items():
        for answer in answers:
            body = answer.json()
            assert answer.status_code == status
            assert list(body) == ["statusCode", "message", "error", "detail"]
            assert body["statusCode"] == status
            assert isinstance(body["message"], str)
            assert body["message"]
            assert all(set(each) == {"loc", "msg", "type"} for each in body["detail"])
    assert errors[400][0].json()["error"] == "Bad Request"
    assert len(errors[400][0].json()["detail"]) == 2
    assert errors[416][0].headers["content-range"] == "bytes */1024"
    assert errors[416][0].json()["error"] == "Range Not Satisfiable"
    assert "allow" in errors[405][0].headers
    said = re.search(r"Faults: ([\d, ]+) with", CALLS["every call"][0])
    assert said is not None
    assert {400, 401, 404} <= set(map(int, said[1].split(", ")))
    assert "there is no 422" in CALLS["every call"][0]


def test_the_document_promises_the_page_s_status_codes_and_no_422(document: dict[str, Any]) -> None:
    for (method, path), page in {
        ("post", NEW): f"POST {NEW}",
        ("get", "/v2/artworks/{artwork_id}"): "GET /v2/artworks/{id}",
    }.items():
        promised = set(document["paths"][path][method]["responses"])
        # 403: of an API without keys alone
        assert set(re.findall(r"\b[2-5]\d\d\b", CALLS[page][0])) - {"403"} <= promised
    for path in document["paths"].values():
        for operation in path.values():
            assert "422" not in operation["responses"]
