"""The two operations that take a vision transformer's time, in the form that is fastest here. Imports torch: load it lazily.

On a CPU both go through oneDNN's matrix product, which torch keeps for other precisions: the same float32 numbers, up to twice
as fast on processors that MKL does not know well (benchmarks/models.py measures it). Attention does so only where a trial shows
that it pays: where MKL is nearly as fast, torch's own attention wins. Elsewhere, and under autocast, torch's own.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)

from depth_core.inference.threads import threads_at_start

_SHORTEST = 1000  # tokens; for fewer, torch's own attention is as fast
_LONGEST_TRIAL = 4096  # tokens; for more, what is best does not change any more
_WORTHWHILE = 0.85  # of torch's time in the trial; inside a network, neighbouring layers slow blocks by a tenth
_BLOCKS = (1 << 18, 1 << 20)  # attention scores at once that may be best: 1 and 4 MiB, near the size of a core's caches


def pack(network: torch.nn.Module) -> None:
    """Gives a network's linear layers the faster product: for one that from now on only predicts, in float32 on the CPU."""
    if not _has_product():
        return
    with torch.inference_mode():
        for layer in network.modules():
            if type(layer) is torch.nn.Linear:
                layer.weight = torch.nn.Parameter(_packed(layer.weight), requires_grad=False)
                layer.__class__ = _Packed


def round_weights(backbone: torch.nn.Module) -> None:
    """Keeps the weights of products in bfloat16: for a backbone that from now on only predicts under autocast, which would
    round the same numbers the same way at every batch."""
    for layer in backbone.modules():
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
            layer.to(torch.bfloat16)


def compile_parts(parts: Iterable[torch.nn.Module]) -> None:
    """Has torch compile each part by itself, for inputs of any size, when it is first used. Parts of one class share the code: a
    network is compiled in seconds and not in minutes, once."""
    for part in parts:
        part.compile(dynamic=True)


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """softmax(q k^T / sqrt(d)) v: three (N, heads, L, d) to (N, L, heads, d)."""
    images, heads, length, width = q.shape
    scores_at_once = _best_block(length) if length >= _SHORTEST and _takes(q) else 0
    if not scores_at_once:
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    q, k, v = (q * width**-0.5).contiguous(), k.contiguous(), v.mT.contiguous()
    out = q.new_empty(images, length, heads, width)

    def attend(pair: tuple[int, int]) -> None:
        image, head = pair
        with torch.inference_mode():  # of this thread
            _in_blocks(q[image, head], k[image, head], v[image, head], out[image, :, head], scores_at_once)

    pairs = [(image, head) for image in range(images) for head in range(heads)]
    if torch.get_num_threads() == 1:
        for pair in pairs:
            attend(pair)
    else:  # one core for each head: splitting such small operations over cores that are busy costs more
        list(_cores().map(attend, pairs))
    return out


class _Packed(torch.nn.Linear):
    """A linear layer whose weight only oneDNN can read."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return _product(input.contiguous(), self.weight, self.bias)


def _in_blocks(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, scores_at_once: int) -> None:
    """One head's attention into `out`, (L, d): scaled queries (L, d), keys (L, d), values (d, L)."""
    blocks = q.tensor_split(-(-len(q) * len(k) // scores_at_once))
    keys, values = _packed(k, len(blocks[0])), _packed(v, len(blocks[0]))
    done = 0
    for rows in blocks:
        scores = _product(rows, keys, None)
        torch.softmax(scores, dim=-1, out=scores)
        out[done : done + len(rows)] = _product(scores, values, None)
        done += len(rows)


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # type: ignore[no-any-return]


def _packed(weight: torch.Tensor, rows: int | None = None) -> torch.Tensor:
    """The weight (out, in) in the layout that oneDNN would make anew for every product, with (rows, in) if that is known."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, rows)  # type: ignore[no-any-return]


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
    """Whether oneDNN's product is there and right: it is not part of torch's public interface."""
    x, weight = torch.linspace(-1, 1, 24).view(3, 8), torch.linspace(-1, 1, 40).view(5, 8)
    try:
        with torch.inference_mode():
            products = [_product(x, form, None) for form in (weight, _packed(weight, 3))]
            return all(torch.allclose(product, F.linear(x, weight), atol=1e-5) for product in products)
    except (AttributeError, RuntimeError, TypeError):
        return False


def _best_block(length: int) -> int:
    """How many scores at once are fastest on this processor for so many tokens; 0: torch's own attention is."""
    with _trying:
        return _trial(min(_LONGEST_TRIAL, 3 << length.bit_length() - 2))


_trying = threading.Lock()


@functools.cache
def _trial(length: int) -> int:
    """Once in a process for each power of two: 0.1 to 0.5 s, one head on every core at once, as it will be."""
    q, k, v = torch.randn(3, length, 64, generator=torch.Generator().manual_seed(0))

    def attend(scores_at_once: int) -> None:
        with torch.inference_mode():  # of this thread
            if scores_at_once:
                _in_blocks(q, k, v.T.contiguous(), torch.empty_like(q), scores_at_once)
            else:
                F.scaled_dot_product_attention(q[None, None], k[None, None], v[None, None])

    def seconds(scores_at_once: int) -> float:
        start = time.perf_counter()
        list(_cores().map(attend, [scores_at_once] * threads_at_start()))
        return time.perf_counter() - start

    candidates = (0, *_BLOCKS)
    turns = [[seconds(scores) for scores in candidates] for _ in range(3)]  # a busy moment of the machine meets all of them
    own, *blocks = map(min, zip(*turns, strict=True))
    fastest, scores = min(zip(blocks, _BLOCKS, strict=True))
    return scores if fastest < _WORTHWHILE * own else 0


@functools.cache
def _cores() -> ThreadPoolExecutor:
    """One thread for each core, shared by all who predict at once."""
    return ThreadPoolExecutor(threads_at_start(), "attention", initializer=torch.set_num_threads, initargs=(1,))
