"""What is said at a terminal: nothing that speaks to it, progress with its units, interrupts that leave in order."""

from __future__ import annotations

import io
import re
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from depth_core import terminal


@given(st.text())
def test_no_text_speaks_to_the_terminal_or_is_taken_for_markup(text: str) -> None:
    console = Console(file=io.StringIO(), width=10_000, highlight=False)
    console.print(terminal.name(text), soft_wrap=True)
    console.print(terminal.message(text), soft_wrap=True)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", said)
    assert said.count("\n") == 2
    plain = text.isprintable() and "\\" not in text and not re.search(r"[\ud800-\udfff]", text)
    assert not plain or said.splitlines()[0] == text


def test_secrets_of_urls_in_messages_are_masked() -> None:
    assert terminal.message("cannot fetch https://me:pass@example.com/a?sig=abc") == "cannot fetch https://example.com/a?sig=***"


def test_a_bar_on_a_terminal_of_80_columns_has_room_for_every_fact(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    with terminal.meter(console, "rows") as meter:
        meter.start("chunk 12 of 34: depth maps", 1000)
        for done in (20, 320):
            now[0] += 24.4
            meter.at(done)
    drawn = re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", console.file.getvalue())  # type: ignore[attr-defined]
    assert re.search(r"chunk 12 of 34: depth maps .*320/1,000 rows  12\.3 images/s  55 s left", drawn)


def test_elsewhere_a_line_is_said_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    console = Console(file=io.StringIO(), width=80)
    with terminal.meter(console, "photos") as meter:
        meter.start("tiny on cpu", 10_000)
        for done in range(1, 10_001, 100):
            now[0] += 4
            meter.at(done)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 33
    assert lines[0] == "tiny on cpu: 201/10,000 photos  25.0 images/s  7 min left"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_block_with_the_status_that_shells_expect(number: signal.Signals, status: int) -> None:
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(terminal.Interrupted) as ended, terminal.interruptible():
        signal.raise_signal(number)
    assert ended.value.status == status
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def keep_to_oneself(number: signal.Signals) -> None:
    """As a library does that takes signals for as long as it is at work."""
    before = signal.signal(number, lambda number, frame: None)
    signal.raise_signal(number)
    signal.signal(number, before)


def test_a_signal_that_another_handler_kept_to_itself_is_not_lost() -> None:
    with terminal.interruptible():
        terminal.raise_if_interrupted()
        keep_to_oneself(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            terminal.raise_if_interrupted()
    terminal.raise_if_interrupted()
