"""Who calls, as routes are told."""

import asyncio
import threading
from typing import Any, cast

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from depth_api import dependencies
from depth_api.auth import ApiKeys
from depth_api.state import ApiState


def test_calls_that_wait_for_their_rate_limit_leave_threads_to_others() -> None:
    written = threading.Event()

    class Waiting:
        def take(self, _who: str) -> int:
            written.wait()
            return 0

    unused = cast(Any, None)
    others = dict.fromkeys(("settings", "metrics_key", "metrics", "artworks", "store", "long_polling", "wrong_keys"), unused)

    async def answers() -> list[str]:
        state = ApiState(keys=ApiKeys(()), limits=cast(Any, Waiting()), **others)
        calls = [asyncio.create_task(dependencies._caller(Request({"type": "http"}), state)) for _ in range(60)]
        await asyncio.sleep(0)  # each has asked for its thread
        try:
            assert await asyncio.wait_for(run_in_threadpool(threading.active_count), 10)
        finally:
            written.set()
            names = await asyncio.gather(*calls)
        return names

    assert asyncio.run(answers()) == ["local"] * 60
