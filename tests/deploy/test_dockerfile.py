"""The Dockerfile, read as text, since no Docker engine builds it here: its stages, its user, what it copies."""

from __future__ import annotations

import fnmatch
import re

import pytest
from support.deployment import DEPLOY, ROOT, copied, image_environment, instructions, last_stage

BUILD_TOOLS = re.compile(r"\b(apt|apt-get|apk|dpkg|gcc|g\+\+|make|build-essential|cmake|git|curl|pip|uv)\b")
WITHOUT_PIP = "python -m pip uninstall --yes --quiet --root-user-action=ignore pip"


def argument(name: str) -> str | None:
    """The default of a build argument."""
    return dict(rest.partition("=")[::2] for kind, rest in instructions() if kind == "ARG").get(name)


def test_the_last_stage_has_nothing_that_builds_and_takes_the_environment_from_another() -> None:
    froms = [rest for name, rest in instructions() if name == "FROM"]
    assert len(froms) == 2
    assert froms[0].endswith(" AS build")
    runs = [rest for name, rest in last_stage() if name == "RUN"]
    assert not [rest for rest in runs if BUILD_TOOLS.search(rest.replace(WITHOUT_PIP, ""))]
    assert any(WITHOUT_PIP in rest for rest in runs), "the base image's own pip goes"
    assert ("COPY", "--from=build /opt/venv /opt/venv") in last_stage()
    assert any("venv --without-pip" in rest for name, rest in instructions() if name == "RUN"), "what is copied has none either"


def test_programs_run_as_a_user_without_rights() -> None:
    users = [rest for name, rest in last_stage() if name == "USER"]
    assert users == ["10001:10001"]
    after = last_stage()[last_stage().index(("USER", users[0])) :]
    assert not [name for name, _ in after if name in ("RUN", "COPY", "ADD")], "nothing comes after it that belongs to root"


def test_cuda_is_a_build_argument_and_the_wheel_is_checked_against_it() -> None:
    assert (argument("DEVICE"), argument("TORCH_INDEX")) == ("cpu", "")
    (check,) = (rest for name, rest in instructions() if name == "RUN" and "DEVICE" in rest)
    (program,) = re.findall(r'-c "(.*)"$', check)

    class LeftError(Exception):
        pass

    def outcome(device: str, cuda: str | None) -> object:
        def leave(status: object) -> None:
            raise LeftError(status)

        source = program.replace("${DEVICE}", device).replace("import sys; from torch.version import cuda; ", "")
        source = source.replace("\\\n", "").replace("sys.exit", "leave")
        with pytest.raises(LeftError) as left:
            exec(source, {"leave": leave, "cuda": cuda})
        return left.value.args[0]

    assert outcome("cpu", None) is None
    assert outcome("cuda", "13.0") is None
    assert "TORCH_INDEX" in str(outcome("cpu", "13.0"))
    assert "cuda needs none" in str(outcome("cuda", None))
    assert "'rocm'" in str(outcome("rocm", None))


def test_every_install_keeps_to_the_pinned_versions() -> None:
    installs = [rest for name, rest in instructions() if name == "RUN" and " install " in rest]
    assert len(installs) == 2
    assert all("-c constraints.txt" in rest and "/opt/venv/bin/python" in rest for rest in installs)


def test_what_is_copied_is_there_and_what_is_there_is_in_the_context() -> None:
    """Everything that COPY names exists, and deploy/Dockerfile.dockerignore lets it through."""
    lines = (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    let_through = [line[1:] for line in lines if line.startswith("!")]
    sources = [
        source
        for name, rest in instructions()
        if name == "COPY" and "--from=" not in rest
        for source in [word for word in rest.split() if not word.startswith("--")][:-1]
    ]
    assert lines[[line.startswith("#") for line in lines].index(False)] == "*"
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, pattern) for pattern in let_through), source
    assert {*let_through} == {*sources}


def test_the_image_has_what_its_commands_name() -> None:
    targets = {target for _, target in copied()}
    assert {"prepare.py", "healthy.py", "workspace.yaml", "dagster/dagster.yaml", "data/profiles.toml"} <= targets
    assert image_environment()["DAGSTER_HOME"] == "/opt/depthline/dagster"
    (check,) = (rest for name, rest in last_stage() if name == "HEALTHCHECK")
    assert '["python", "healthy.py", "8000", "/health/live"]' in check


def test_no_address_of_a_package_registry_is_named() -> None:
    for file in sorted(DEPLOY.rglob("*")):
        if file.is_file():
            assert not re.search(r"https?://[\w.-]*(pypi|pytorch|pythonhosted|docker\.io|ghcr)", file.read_text("utf-8")), file
