"""Reads the files of deploy/ as Docker and Compose do, as far as they are used there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
HOME = "/opt/depthline"  # the image's working directory

_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?:(?P<operator>:[-?])(?P<rest>(?:[^{}]|\{[^}]*\})*))?\}")


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, each with the rest of its line; continued lines are joined."""
    text = re.sub(r"^\s*#.*\n", "", (DEPLOY / "Dockerfile").read_text("utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines if line.strip())]


def last_stage() -> list[tuple[str, str]]:
    found = instructions()
    first = max(n for n, (name, _) in enumerate(found) if name == "FROM")
    return found[first:]


def copied() -> Iterator[tuple[str, str]]:
    """What the last stage copies from the repository: each source, and where it goes below the image's working directory."""
    for name, rest in last_stage():
        if name == "COPY" and "--from=" not in rest:
            *sources, target = [word for word in shlex.split(rest) if not word.startswith("--")]
            for source in sources:
                yield source, str(Path(target) / Path(source).name) if target.endswith("/") else target


def image_environment() -> dict[str, str]:
    """What ENV of the last stage sets."""
    return dict(word.split("=", 1) for name, rest in last_stage() if name == "ENV" for word in shlex.split(rest))


def compose(name: str = "compose.yaml") -> dict[str, Any]:
    found = yaml.safe_load((DEPLOY / name).read_text("utf-8"))
    assert isinstance(found, dict)
    return found


def interpolated(value: Any, variables: Mapping[str, str]) -> Any:
    """A value of a Compose file with its ${VARIABLE}, ${VARIABLE:-default} and ${VARIABLE:?message} replaced.

    Raises KeyError with the message when a variable that must be set is missing or empty.
    """
    if isinstance(value, dict):
        return {key: interpolated(each, variables) for key, each in value.items()}
    if isinstance(value, list):
        return [interpolated(each, variables) for each in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        found = variables.get(match["name"], "")
        if found or not match["operator"]:
            return found
        if match["operator"] == ":?":
            raise KeyError(f"{match['name']}: {match['rest']}")
        return str(interpolated(match["rest"], variables))

    return _VARIABLE.sub(replace, value)


def env_file(name: str) -> dict[str, str]:
    """The variables of an env file, by their names."""
    lines = (line.strip() for line in (DEPLOY / name).read_text("utf-8").splitlines())
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
