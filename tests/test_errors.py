"""What ends one row, and what ends a run."""

import errno
import pickle

import pytest

from depth_core.errors import ConfigurationError, ErrorKind, ImageError, StoreError, row_failure


def _raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as raised:  # noqa: BLE001 - with its traceback
        return raised


def test_what_a_library_raises_is_the_rows_failure_with_exception_and_place() -> None:
    failure = row_failure(_raised(KeyError("https://u:p@a.example/?token=abc")))
    assert failure.kind is ErrorKind.INTERNAL
    assert failure.message.startswith("KeyError: 'https://a.example/?token=***' (at test_errors.py:")


def test_an_image_error_stays_as_it_is() -> None:
    error = ImageError(ErrorKind.NOT_FOUND, "HTTP 404", attempts=3)
    assert row_failure(error) is error


@pytest.mark.parametrize(
    "fault", [StoreError("full"), ConfigurationError("wrong"), MemoryError(), OSError(errno.ENOSPC, "no space left")]
)
def test_a_fault_of_the_installation_is_raised_again(fault: Exception) -> None:
    with pytest.raises(type(fault)):
        row_failure(_raised(fault))


def test_an_exception_that_cannot_say_what_it_is_ends_its_row_alone() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise ValueError("not even this")

    assert row_failure(_raised(MuteError())).message.startswith("MuteError (at test_errors.py:")


def test_an_image_error_comes_out_of_another_process_as_it_was() -> None:
    error = pickle.loads(pickle.dumps(ImageError(ErrorKind.NOT_FOUND, "HTTP 404", attempts=3)))
    assert (error.kind, error.message, error.attempts) == (ErrorKind.NOT_FOUND, "HTTP 404", 3)
