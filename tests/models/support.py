"""Batches, and states of a few units, for tests of models of binary units."""

import itertools

import numpy as np
import torch
from torch import Tensor

from ddpm_lab.core.batch import Batch
from ddpm_lab.models.machines import MachineModel

F64 = torch.float64


def states(n: int) -> Tensor:
    """All of n units, 2^n × n."""
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=n)), dtype=F64)


def grey(rows: int, n: int, seed: int = 0) -> Tensor:
    """Data in [−1, 1]."""
    return 2 * torch.rand(rows, n, generator=torch.Generator().manual_seed(seed), dtype=F64) - 1


def whole(x0: Tensor, counter: int) -> Batch:
    return Batch(x0, counter, 0, len(x0))


def pieces(x0: Tensor, counter: int, at: int) -> list[Batch]:
    """Of one batch, as several processes or accumulated gradients have them."""
    return [Batch(x0[:at], counter, 0, len(x0)), Batch(x0[at:], counter, at, len(x0))]


def spread(model: MachineModel, std: float, seed: int = 0) -> None:
    """Normal parameters in place of small ones."""
    g = torch.Generator().manual_seed(seed)
    for p in model.net.parameters():
        p.data = std * torch.randn(p.shape, generator=g, dtype=F64)


def gradients(model: MachineModel, loss: Tensor) -> dict[str, Tensor | None]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad for name, p in model.net.named_parameters()}


def shares(samples: Tensor, n: int) -> np.ndarray:
    """Of each state of n units among samples in [−1, 1]."""
    code = ((samples.flatten(1) > 0).long() * 2 ** torch.arange(n - 1, -1, -1)).sum(1)
    return np.bincount(code.numpy(), minlength=2**n) / len(samples)
