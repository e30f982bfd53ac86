"""Random numbers as pure functions of (seed, stream, counter, index): no state to save, and none shared between ranks.

Numbers are drawn in blocks of 64 consecutive indices, each from its first index on by a generator seeded by a hash of the
block's address, and then sliced. So every rank, batch size and resumed run gets the same numbers for the same index. torch
seeds its CPU generator with 32 bits: of some 10^5 addresses two may collide, too rarely to bias any statistic here.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

BLOCK = 64
Training = Literal["init", "data", "order", "flips", "labels", "t", "noise", "signs", "dropout", "gibbs", "wake", "sleep"]
Measuring = Literal["evaluation", "estimate", "estimate_t", "gamma", "errors", "dequantise", "probe", "annealing"]
Evaluation = Literal["sampling", "classes", Measuring, "editing"]
OfCovariance = Literal["evaluation_probe", "estimate_probe", "variance_probe"]
Stream = Training | Evaluation | OfCovariance


def address(seed: int, stream: Stream, *counters: int) -> int:
    """A 63-bit seed for one address; equal addresses, equal seeds, on every machine."""
    text = "/".join(map(str, (seed, stream, *counters)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, stream: Stream, *counters: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator for one address."""
    return torch.Generator(device).manual_seed(address(seed, stream, *counters))


def _blocks(draw: Callable[[int, torch.Generator], Tensor], seed: int, stream: Stream, counter: int, start: int, stop: int):
    """`draw` gives as many first numbers of a block as it is told; of the last block, no more than are needed are drawn."""
    blocks = range(start // BLOCK, max(-(-stop // BLOCK), start // BLOCK + 1))
    drawn = [draw(min(BLOCK, stop - block * BLOCK), generator(seed, stream, counter, block)) for block in blocks]
    whole = torch.cat(drawn) if len(drawn) > 1 else drawn[0]
    return whole[start - blocks.start * BLOCK : stop - blocks.start * BLOCK]


def _normals(n: int, shape: Sequence[int], numbers: torch.Generator) -> Tensor:
    """n or a few more. torch makes normals in groups of 16: the first whole groups do not depend on how many follow."""
    rows = 16 // math.gcd(16, math.prod(shape))
    return torch.randn(-(-n // rows) * rows, *shape, generator=numbers)


def parts(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """start..stop cut where blocks end, so that a loop over indices draws no block twice."""
    while start < stop:
        end = min(stop, (start // BLOCK + 1) * BLOCK)
        yield start, end
        start = end


def normal(shape: Sequence[int], seed: int, stream: Stream, counter: int, start: int, stop: int) -> Tensor:
    """Standard normal float32 on the CPU, (stop − start) × shape: the numbers of indices start..stop−1."""
    return _blocks(lambda n, g: _normals(n, shape, g), seed, stream, counter, start, stop)


def uniform(seed: int, stream: Stream, counter: int, start: int, stop: int, shape: Sequence[int] = ()) -> Tensor:
    """Uniform float64 in [0, 1), (stop − start) × shape: the numbers of indices start..stop−1."""

    def draw(n: int, numbers: torch.Generator) -> Tensor:
        return torch.rand(n, *shape, dtype=torch.float64, generator=numbers)

    return _blocks(draw, seed, stream, counter, start, stop)


def signs(seed: int, stream: Stream, counter: int, start: int, stop: int, shape: Sequence[int]) -> Tensor:
    """±1 with equal chance, float64, (stop − start) × shape: the numbers of indices start..stop−1."""
    return torch.where(uniform(seed, stream, counter, start, stop, shape) < 0.5, -1.0, 1.0).double()


def permutation(n: int, seed: int, stream: Stream, counter: int) -> Tensor:
    """A random order of 0..n−1."""
    return torch.randperm(n, generator=generator(seed, stream, counter))
