"""How a known error fails a step of a run: with one line that names the cure, not with a stack trace of Depthline's code."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import dagster as dg

from depth_core.display import shown_text
from depth_core.errors import DepthlineError

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def fails_in_one_line(body: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """The body of an op, asset or check: a DepthlineError fails the step with its message and no retry.

    Without the exception as its cause: that would bring the stack trace back.
    """

    @wraps(body)
    def guarded(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            return body(*args, **kwargs)
        except DepthlineError as error:
            reason = shown_text(str(error))
        # Raised outside of the handler, so that the error is not the failure's context either.
        raise dg.Failure(reason, allow_retries=False).with_traceback(None)

    return guarded
