"""The two operations that take a vision transformer's time, in the form that is fastest here. Imports torch: load it lazily.

On a CPU both go through oneDNN's matrix product, which torch keeps for other precisions: the same float32 numbers, up to twice
as fast on processors that MKL does not know well (benchmarks/models.py measures it). Attention does so only where a trial shows
that it pays: where MKL is nearly as fast, torch's own attention wins. Elsewhere, and under autocast, torch's own.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)

_SCORES_AT_ONCE = 1 << 20  # attention scores per block: 4 MiB, which stays in a core's cache
_SHORTEST = 1000  # tokens; for fewer, torch's own attention is as fast


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x @ weight.T + bias: (..., in), (out, in), (out,) to (..., out)."""
    return _product(x.contiguous(), weight, bias) if _takes(x) else F.linear(x, weight, bias)


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """softmax(q k^T / sqrt(d)) v: three (N, heads, L, d) to (N, L, heads, d)."""
    images, heads, length, width = q.shape
    if length < _SHORTEST or not _takes(q) or not _blocks_pay():
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    q, k, v = (q * width**-0.5).contiguous(), k.contiguous(), v.transpose(-1, -2).contiguous()
    out = q.new_empty(images, length, heads, width)

    def attend(pair: tuple[int, int]) -> None:
        image, head = pair
        with torch.inference_mode():  # of this thread
            _in_blocks(q[image, head], k[image, head], v[image, head], out[image, :, head])

    pairs = [(image, head) for image in range(images) for head in range(heads)]
    if torch.get_num_threads() == 1:
        for pair in pairs:
            attend(pair)
    else:  # a core each: operations this small lose more to waiting for each other's cores, when those are busy elsewhere
        list(_cores().map(attend, pairs))
    return out


class Linear(torch.nn.Linear):
    """torch.nn.Linear with the faster product."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return linear(input, self.weight, self.bias)


def _in_blocks(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor) -> None:
    """One head's attention into `out`, (L, d): scaled queries (L, d), keys (L, d), values (d, L)."""
    done = 0
    for rows in q.tensor_split(-(-len(q) * len(k) // _SCORES_AT_ONCE)):
        scores = _product(rows, k, None)
        torch.softmax(scores, dim=-1, out=scores)
        out[done : done + len(rows)] = _product(scores, v, None)
        done += len(rows)


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # type: ignore[no-any-return]


def _takes(x: torch.Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype is torch.float32
        and torch.is_inference_mode_enabled()
        and not torch.is_autocast_enabled("cpu")
        and _has_product()
    )


@functools.cache
def _has_product() -> bool:
    """Whether oneDNN's product is there and right: it is no part of torch's public interface."""
    x, weight = torch.linspace(-1, 1, 24).view(3, 8), torch.linspace(-1, 1, 40).view(5, 8)
    try:
        return torch.allclose(_product(x, weight, None), F.linear(x, weight), atol=1e-5)
    except (AttributeError, RuntimeError, TypeError):
        return False


def _blocks_pay() -> bool:
    """Whether attention in blocks is faster on this processor than torch's own: tried once in a process, in about 0.3 s."""
    with _trying:
        return _trial()


_trying = threading.Lock()


@functools.cache
def _trial() -> bool:
    def compare() -> bool:
        q, k, v = torch.randn(3, 1, 1, 1536, 64, generator=torch.Generator().manual_seed(0))
        turned, out = v[0, 0].T.contiguous(), torch.empty_like(q[0, 0])
        with torch.inference_mode():
            blocks = _seconds(lambda: _in_blocks(q[0, 0], k[0, 0], turned, out))
            return blocks < _seconds(lambda: F.scaled_dot_product_attention(q, k, v))

    return _cores().submit(compare).result()  # on one core


def _seconds(function: Callable[[], object]) -> float:
    """The best of a few runs."""
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


@functools.cache
def _cores() -> ThreadPoolExecutor:
    """One thread for each core, shared by all who predict at once."""
    from depth_core.inference.predictor import threads_at_start

    return ThreadPoolExecutor(threads_at_start(), "attention", initializer=torch.set_num_threads, initargs=(1,))
