"""What the documents promise: every setting with its default and meaning, make targets that exist, links that lead somewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from depth_core.plan import requests
from depth_core.settings import Settings

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def row(name: str, field: FieldInfo) -> str:
    """The line of docs/operations.md about a setting."""
    meaning = (field.description or "").replace("<", r"\<")  # or a page would take it for a tag
    return f"| `DEPTH_{name.upper()}` | {shown(field.get_default(call_default_factory=True))} | {meaning} |"


def shown(default: Any) -> str:
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    if default in ("", None, [], {}):
        return ""
    if isinstance(default, bool | list | dict):
        return f"`{json.dumps(default)}`"
    return f"`{default}`"


@pytest.mark.parametrize("name", Settings.model_fields)
def test_operations_md_has_every_setting_with_its_default_and_meaning(name: str) -> None:
    assert row(name, Settings.model_fields[name]) in (ROOT / "docs/operations.md").read_text("utf-8").splitlines()


def test_operations_md_has_no_setting_that_does_not_exist() -> None:
    named = set(re.findall(r"`(DEPTH_[A-Z0-9_]+)", (ROOT / "docs/operations.md").read_text("utf-8")))
    assert named <= {f"DEPTH_{name.upper()}" for name in Settings.model_fields}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_make_targets_and_files_that_a_document_names_exist(document: Path) -> None:
    text = document.read_text("utf-8")
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"^    make ([a-z]+)", text, re.MULTILINE)) | set(re.findall(r"`make ([a-z]+)", text))
    assert named <= targets
    links = [link for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) if "://" not in link]
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_the_readme_names_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert "    make demo" in text
    assert "    make test" in text


def test_pictures_are_small() -> None:
    for picture in (ROOT / "docs/images").iterdir():
        assert picture.stat().st_size < 300_000, picture.name


def test_scale_md_has_the_requests_to_s3_that_are_counted() -> None:
    text = (ROOT / "docs/scale.md").read_text("utf-8")
    for title, counts in (("of a new image", requests.PER_IMAGE), ("of a chunk under one profile", requests.PER_CHUNK)):
        operations = ("PUT", "GET", "HEAD", "LIST")
        lines = [f"| {step} | {' | '.join(str(counts[step].get(each, 0)) for each in operations)} |" for step in requests.STEPS]
        table = "\n".join([f"| {title} | {' | '.join(operations)} |", "| --- | --- | --- | --- | --- |", *lines])
        assert table in text
    per_image = [sum(counts.get(each, 0) for counts in requests.PER_IMAGE.values()) for each in ("PUT", "GET", "HEAD")]
    assert "So {} for an image: {} PUT, {} GET, {} HEAD.".format(sum(per_image), *per_image) in text
