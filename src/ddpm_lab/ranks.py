"""Several processes, each with a slice of every batch: the bounds of the slice, and the collectives that join results.

With one process the slice is the whole, and every collective returns its argument.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ddpm_lab import files
from ddpm_lab.errors import AlreadyReported, UserError


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def share(n: int) -> tuple[int, int]:
    """(begin, end) of this process's part of n items. Parts are contiguous, in the order of ranks, and their sizes differ by at
    most 1."""
    return n * rank() // world(), n * (rank() + 1) // world()


def gather(value: Any) -> list[Any]:
    """The values of all ranks, in their order, on every rank. Tensors arrive on the CPU. Also a barrier."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, _on_cpu(value))
    return values


def rows(x: Tensor) -> Tensor:
    """The rows of all ranks, concatenated in their order."""
    return x if world() == 1 else torch.cat(gather(x)).to(x.device)


def summed(x: Tensor) -> Tensor:
    """The sum over ranks. x itself is unchanged."""
    if world() == 1:
        return x
    x = x.clone()
    dist.all_reduce(x)
    return x


def agreed(value: Any) -> Any:
    """The value of rank 0, on every rank."""
    box = [value]
    if world() > 1:
        dist.broadcast_object_list(box, src=0)
    return box[0]


@contextmanager
def by_first() -> Iterator[None]:
    """Around work of rank 0 alone; every rank enters. Barrier: ranks go on only after rank 0 has finished. If it raises, the
    others raise AlreadyReported, which ends them with the same exit code and no message."""
    fault = None
    try:
        yield
    except Exception as error:
        fault = error
    code = agreed(0 if fault is None else fault.code if isinstance(fault, UserError) else 1)
    if fault is not None:
        raise fault
    if code:
        raise AlreadyReported(code)


@contextmanager
def held(folder: Path, key: str, first: bool) -> Iterator[None]:
    """`files.held` by the first process, for all."""
    with ExitStack() as ending:
        with by_first():
            if first:
                ending.enter_context(files.held(folder, key))
        yield


def on_first(work: Callable[..., object], *arguments: Any) -> None:
    """Calls `work` on rank 0 alone, as `by_first` says."""
    with by_first():
        if rank() == 0:
            work(*arguments)


def is_lost(error: BaseException) -> bool:
    """Whether a collective failed because another process has ended."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_on_cpu, value))
    return type(value)(map(_on_cpu, value)) if isinstance(value, list | tuple) else value
