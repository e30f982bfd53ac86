"""Small belief nets in float64, and their probabilities by loops over units."""

import itertools
import math

import numpy as np
import torch
from torch import nn

from ddpm_lab.core.batch import Batch

OF_DATA = {"shape": (1, 1, 3), "levels": 2, "seed": 0, "config": {}}
ALL_V = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=torch.float64)
ALL_X = (2 * ALL_V - 1).view(8, 1, 1, 3)
INDEX = torch.arange(8)


def randomised(model, std: float = 1.0):
    """In float64, with weights that are no initial ones."""
    numbers = torch.Generator().manual_seed(1)
    model.net.double()
    for parameter in model.net.parameters():
        parameter.data = std * torch.randn(parameter.shape, generator=numbers, dtype=torch.float64)
    return model


def states(n: int) -> list[tuple[float, ...]]:
    return list(itertools.product([0.0, 1.0], repeat=n))


def given(layer: nn.Linear, of, parents) -> float:
    """p(of | parents) of one layer, unit by unit."""
    W, b = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    p = 1.0
    for i, unit in enumerate(of):
        logit = b[i] + sum(W[i, j] * parent for j, parent in enumerate(parents))
        p *= 1 / (1 + math.exp(-logit if unit else logit))
    return p


def batch(n: int = 5, counter: int = 3, first: int = 0) -> Batch:
    bits = np.random.default_rng(0).integers(0, 2, (n, 1, 1, 3))
    return Batch(torch.from_numpy(2.0 * bits - 1)[first:], counter, first, n)


def gradients(loss, net: nn.Module) -> dict[str, torch.Tensor]:
    """Of the parameters that the loss depends on."""
    net.zero_grad()
    loss.sum().backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
