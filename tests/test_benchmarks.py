"""The table of `make bench`: collected from the figures of modules, and embedded in docs/benchmarks.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import __main__ as bench
from benchmarks import report, table
from benchmarks.report import Figure


@pytest.fixture
def modules(monkeypatch, tmp_path):
    """Measurements to run in place of those of the project: a function that adds one by its source."""
    package = tmp_path / "benchmarks"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "report.py").write_bytes(Path(report.__file__).read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return lambda name, source: (package / f"{name}.py").write_text(source)


def test_a_part_hands_over_its_figures_and_one_that_fails_says_why_after_those_it_had(modules):
    modules("quick", "from benchmarks.report import figure\nfigure('a', 1.5, 's', ratio=1.2, over='b', at_least=0.98)\n")
    modules("broken", "from benchmarks.report import figure\nfigure('c', 2.0)\nraise SystemExit('no tool: install it')\n")

    part = bench.measure("both", [["quick"], ["broken"]])

    assert part.figures[:2] == [Figure("a", 1.5, "s", 1.2, "b", 0.98), Figure("c", 2.0)]
    assert part.figures[2].value is None
    assert part.figures[2].note == "ended with 1: no tool: install it"


def test_a_module_that_runs_by_itself_hands_nothing_over(monkeypatch):
    monkeypatch.delenv(report.FILE, raising=False)
    report.figure("a", 1.0)


@pytest.mark.parametrize(
    ("figure", "met"),
    [
        (Figure("ratio", 9.0, ratio=0.97, at_least=0.98), False),
        (Figure("ratio", 0.1, ratio=0.98, at_least=0.98), True),
        (Figure("value", 0.26, at_most=0.25), False),
        (Figure("nothing wanted", 0.26), None),
        (Figure("not measured", None, at_most=0.25, note="no tool"), None),
    ],
)
def test_what_is_wanted_bounds_the_ratio_and_without_one_the_value(figure, met):
    assert figure.met is met


def test_a_table_is_read_back_as_it_was_written_and_shown_with_what_was_met(tmp_path):
    part = table.Part(
        "2026-01-01", 12.0, 0.9, [Figure("a | b", 1.234, "s", 0.5, "it", at_least=0.98), Figure("c", note="no tool")]
    )
    written = table.Table({"cores": "2"}, {"torch": "2"}, {"rivals": part})
    table.write(written, tmp_path / "figures.json")

    assert table.read(tmp_path / "figures.json") == written
    assert table.read(tmp_path / "none.json") is None
    shown = table.markdown(written)
    assert "| a \\| b | 1.23 s | 0.50 × it | at least 0.98 | **no** |  |" in shown
    assert "| c | not measured |  |  |  | no tool |" in shown
    assert "busy with other work, too: rivals" in shown


def test_only_what_is_between_the_two_comments_is_replaced():
    document = f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n"
    once = table.embedded(document, "new")
    assert once == f"before\n{table.BEGIN}\nnew\n{table.END}\nafter\n"
    assert table.embedded(once, "new") == once
    for broken in ("", document * 2, f"{table.END}{table.BEGIN}"):
        with pytest.raises(ValueError, match="once each"):
            table.embedded(broken, "new")


def test_the_documentation_holds_the_table_that_was_measured_last():
    measured = table.read()
    assert measured is not None
    document = table.DOCUMENT.read_text("utf-8")
    assert table.embedded(document, table.markdown(measured)) == document
