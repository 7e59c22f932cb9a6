"""Runs chunks, each in a process for each run until one comes to its end; says how many died. Started by test_interrupted.py.

deadly.py CASES: JSON, of each chunk its store, "decode" or "render", how many runs there may be, and its images. The one in the
middle kills the process that decodes it, the isolated decoder too, or the one that renders it, which nothing protects.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import nullcontext
from typing import Any

from depth_core.ingest.images import decoders, isolated, isolated_worker


def kill_when_decoding(marked: str, how: signal.Signals) -> None:
    ordinary = decoders.decode

    def deadly(data: bytes, *args: Any, **kwargs: Any) -> Any:
        if kwargs["name"] == marked:
            os.kill(os.getpid(), how)
        return ordinary(data, *args, **kwargs)

    decoders.decode = deadly


def kill_when_rendering(marked: str) -> None:
    from depth_core.engine import stages

    ordinary = stages.render

    def deadly(batch: Any, *args: Any) -> Any:
        if any(image.item.name == marked for image in batch):
            os.kill(os.getpid(), signal.SIGKILL)
        return ordinary(batch, *args)

    stages.render = deadly


def main(cases: list[tuple[str, str, int, list[str]]]) -> None:
    from depth_core import catalog
    from depth_core.contract import DepthParameters
    from depth_core.engine import chunk
    from depth_core.engine.chunk_context import Source
    from depth_core.engine.local import LocalEngine
    from depth_core.inference import checkpoints, predictor
    from depth_core.profiles import Profile
    from depth_core.settings import Settings
    from depth_core.storage import Store

    settings = Settings(device="cpu", decode_threads=1, encode_threads=1)
    checkpoint = checkpoints.resolve(catalog.BY_KEY["tiny"], settings)
    network = predictor.load(checkpoint, settings)

    def deaths(folder: str, step: str, most: int, images: list[str]) -> int:
        marked = images[len(images) // 2]
        for died in range(most):
            process = os.fork()
            if not process:
                if step == "decode":
                    kill_when_decoding(marked, signal.SIGKILL)
                    isolated._PROGRAM = (__file__, "child", marked)
                else:
                    kill_when_rendering(marked)
                chunk.run(
                    [Source(sha, sha) for sha in images],
                    profile=Profile(name="preview", parameters=DepthParameters(model="tiny", resolution_lower_limit=256)),
                    chunk="photos-00000000-00000",
                    run_id=f"run-{died}",
                    checkpoint=checkpoint,
                    open_engine=lambda checkpoint: nullcontext(LocalEngine(network, Store(folder), settings)),
                    store=Store(folder),
                    settings=settings,
                )
                os._exit(0)
            status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            if status == 0:
                return died
            assert status == -signal.SIGKILL, status
        raise AssertionError(f"{most} runs died")

    sys.stdout.write(json.dumps([deaths(*case) for case in cases]))


if __name__ == "__main__":
    if sys.argv[1] == "child":
        kill_when_decoding(sys.argv[2], signal.SIGSEGV)
        isolated_worker.main()
    main(json.loads(sys.argv[1]))
