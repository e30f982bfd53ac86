"""Random numbers as pure functions of (seed, stream, counter, index): no state to save, and none shared between ranks.

Numbers are drawn in blocks of 64 consecutive indices, each block from a generator seeded by a hash of its address, and then
sliced. So every rank, batch size and resumed run gets the same numbers for the same index. torch seeds its CPU generator with
32 bits: of some 10^5 addresses two may collide, too rarely to bias any statistic here.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

BLOCK = 64
Training = Literal["init", "data", "order", "flips", "t", "noise", "dropout"]
Evaluation = Literal["sampling", "evaluation", "estimate", "estimate_t", "gamma", "dequantise", "probe"]
Stream = Training | Evaluation


def address(seed: int, stream: Stream, *counters: int) -> int:
    """A 63-bit seed for one address; equal addresses, equal seeds, on every machine."""
    text = "/".join(map(str, (seed, stream, *counters)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, stream: Stream, *counters: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator for one address."""
    return torch.Generator(device).manual_seed(address(seed, stream, *counters))


def _blocks(draw: Callable[[torch.Generator], Tensor], seed: int, stream: Stream, counter: int, start: int, stop: int):
    blocks = range(start // BLOCK, max(-(-stop // BLOCK), start // BLOCK + 1))
    drawn = [draw(generator(seed, stream, counter, block)) for block in blocks]
    return torch.cat(drawn)[start - blocks.start * BLOCK : stop - blocks.start * BLOCK]


def parts(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """start..stop cut where blocks end, so that a loop over indices draws no block twice."""
    while start < stop:
        end = min(stop, (start // BLOCK + 1) * BLOCK)
        yield start, end
        start = end


def normal(shape: Sequence[int], seed: int, stream: Stream, counter: int, start: int, stop: int) -> Tensor:
    """Standard normal float32 on the CPU, (stop − start) × shape: the numbers of indices start..stop−1."""
    return _blocks(lambda g: torch.randn(BLOCK, *shape, generator=g), seed, stream, counter, start, stop)


def uniform(seed: int, stream: Stream, counter: int, start: int, stop: int, shape: Sequence[int] = ()) -> Tensor:
    """Uniform float64 in [0, 1), (stop − start) × shape: the numbers of indices start..stop−1."""
    return _blocks(lambda g: torch.rand(BLOCK, *shape, dtype=torch.float64, generator=g), seed, stream, counter, start, stop)


def permutation(n: int, seed: int, stream: Stream, counter: int) -> Tensor:
    """A random order of 0..n−1."""
    return torch.randperm(n, generator=generator(seed, stream, counter))
