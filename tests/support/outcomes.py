"""Outcomes of images, as an engine gives them."""

from typing import Any

from depth_core.output.outcomes import Outcome


def succeeded(sha: str, **changes: Any) -> Outcome:
    facts: dict[str, Any] = {
        "source_sha256": sha,
        "status": "succeeded",
        "folder": f"depth/digest/{sha[:2]}/{sha}",
        "results": ("depth.png", "depth.json"),
        "source_width": 640,
        "source_height": 480,
        "network_width": 344,
        "network_height": 256,
        "output_width": 640,
        "output_height": 480,
        "depth_min": 0.5,
        "depth_max": 8.5,
        "kind": "disparity",
        "model": "tiny",
        "checkpoint_revision": "bundled-1",
        "licence": "Apache-2.0",
        "seconds": {"read": 0.01, "decode": 0.02, "predict": 0.3, "encode": 0.04, "write": 0.05},
        "finished_at": "2026-03-01T12:00:00.000Z",
    }
    return Outcome(**facts | changes)


def failed(sha: str, kind: str | None = "truncated_image", **changes: Any) -> Outcome:
    facts: dict[str, Any] = {"error_message": f"{kind} it is", "attempts": 2, "finished_at": "2026-03-01T12:00:00.000Z"}
    return Outcome(sha, "failed", error_kind=kind, **facts | changes)
