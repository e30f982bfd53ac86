"""Several processes, each with a slice of every batch: which slice, and how what they measured comes together.

With one process there is one slice, and nothing to bring together.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ddpm_lab.errors import ToldElsewhere, UserError


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def share(n: int) -> tuple[int, int]:
    """Where this process's part of n begins and ends: contiguous, in the order of the processes, as even as can be."""
    return n * rank() // world(), n * (rank() + 1) // world()


def gather(thing: Any) -> list[Any]:
    """Everybody's `thing`, in the order of the processes, on every process. Tensors arrive on the CPU."""
    if world() == 1:
        return [thing]
    found: list[Any] = [None] * world()
    dist.all_gather_object(found, _on_cpu(thing))
    return found


def rows(x: Tensor) -> Tensor:
    """Everybody's rows, one after another."""
    return x if world() == 1 else torch.cat(gather(x)).to(x.device)


def summed(x: Tensor) -> Tensor:
    """The sum over processes; x itself is left alone."""
    if world() == 1:
        return x
    x = x.clone()
    dist.all_reduce(x)
    return x


def agreed(found: Any) -> Any:
    """What process 0 found."""
    box = [found]
    if world() > 1:
        dist.broadcast_object_list(box, src=0)
    return box[0]


@contextmanager
def by_first() -> Iterator[None]:
    """Around what process 0 alone does; all must come by. What goes wrong there is raised there, and ends the others quietly
    with the same exit code: they raise ToldElsewhere."""
    fault = None
    try:
        yield
    except Exception as error:
        fault = error
    code = agreed(0 if fault is None else fault.code if isinstance(fault, UserError) else 1)
    if fault is not None:
        raise fault
    if code:
        raise ToldElsewhere(code)


def _on_cpu(thing: Any) -> Any:
    if isinstance(thing, Tensor):
        return thing.detach().cpu()
    if isinstance(thing, tuple) and hasattr(thing, "_fields"):
        return type(thing)(*map(_on_cpu, thing))
    return type(thing)(map(_on_cpu, thing)) if isinstance(thing, list | tuple) else thing
