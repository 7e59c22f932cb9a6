"""How a fault that Depthline knows ends a run: as one line that names the cure, not as a stack trace of its own code."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import dagster as dg

from depth_core.display import shown_text
from depth_core.errors import DepthlineError

Words = ParamSpec("Words")
Answer = TypeVar("Answer")


def plainly(body: Callable[Words, Answer]) -> Callable[Words, Answer]:
    """The body of an op, asset or check: what Depthline raises on purpose fails the step with its message and no retry.

    Without the exception as its cause: that would bring the stack trace back.
    """

    @wraps(body)
    def guarded(*args: Words.args, **kwargs: Words.kwargs) -> Answer:
        try:
            return body(*args, **kwargs)
        except DepthlineError as error:
            reason = shown_text(str(error))
        # Out here, so that the error is no context of the failure either.
        raise dg.Failure(reason, allow_retries=False).with_traceback(None)

    return guarded
