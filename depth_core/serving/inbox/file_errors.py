"""Errors of single files of the inbox: which of them wait for another attempt, and what operators see of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError, StatementError

from depth_core.display import shown_text
from depth_core.errors import StoreError, is_installation_error, row_failure

LONGEST_PAUSE_SECONDS = 60.0  # between attempts at one file


class FileErrors:
    """Errors of single files. Each file is tried again ever more slowly, reported ever more rarely, and stops no other."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[str, tuple[int, float]] = {}  # what -> attempts, when to try again
        self._unreported: list[str] = []

    def waits(self, what: str) -> bool:
        """Whether it is too early to try this again."""
        return what in self._known and self._clock() < self._known[what][1]

    @contextmanager
    def contained(self, what: str, *, about: str = "") -> Iterator[None]:
        """Catches what goes wrong with one file, and remembers it. `about`: begins the line that people see.

        What the store and the disk refuse is contained as well, and tried again; other errors of the installation are not, nor
        is a database that does not answer.
        """
        try:
            yield
        except Exception as error:
            if _of_the_installation(error):
                raise
            reason = str(error) if isinstance(error, StoreError | OSError) else row_failure(error).message
            if len(self._known) > 10_000:  # files come and go
                self._known.clear()
            attempts = self._known.get(what, (0, 0.0))[0] + 1
            pause = min(LONGEST_PAUSE_SECONDS, 2.0 ** min(attempts - 1, 10))
            self._known[what] = attempts, self._clock() + pause
            if attempts & (attempts - 1) == 0:  # the first, second, fourth, eighth ...
                line = f"{about}: {reason}" if about else reason
                self._unreported.append(shown_text(f"{line} (attempt {attempts}, the next one in {pause:.0f} s)"))
        else:
            self._known.pop(what, None)

    def take(self) -> list[str]:
        """What has not been reported yet."""
        unreported, self._unreported = self._unreported, []
        return unreported


def _of_the_installation(error: Exception) -> bool:
    if isinstance(error, StoreError | OSError):
        return False
    if isinstance(error, SQLAlchemyError):  # but for values that the database cannot take
        return not (isinstance(error, DataError | IntegrityError) or type(error) is StatementError)
    return is_installation_error(error)
