"""Families of non-images that a classifier learns to reject: noise, shuffled pixels, mixtures. Each takes real images x
(N C S S in [0, 1]), their labels and a generator, and returns as many images, which may leave [0, 1]."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn import functional as F


def gaussian_noise(x: Tensor, labels: Tensor, g: Generator) -> Tensor:
    """Centred in [-1, 1], with scale 1/4, 1/2, 1 (a sampler's first state) or 2."""
    scales = torch.tensor([0.25, 0.5, 1.0, 2.0])[torch.randint(4, (len(x), 1, 1, 1), generator=g)]
    return (scales * torch.randn(x.shape, generator=g) + 1) / 2


def uniform_noise(x: Tensor, labels: Tensor, g: Generator) -> Tensor:
    return torch.rand(x.shape, generator=g)


def smooth_noise(x: Tensor, labels: Tensor, g: Generator) -> Tensor:
    """Blobs of 3/8 of the side, as smooth as pen strokes and with a similar amount of ink."""
    width = _odd(3 / 8, x)
    blobs = _mean_filter(torch.randn(x.shape, generator=g), width) * (width / 3)  # independent of how many values are averaged
    return 0.3 + between(x, 0.5, 2, g) * blobs


def shuffled(x: Tensor, labels: Tensor, g: Generator) -> Tensor:
    """One permutation of the pixels for the first half of the images, one per image for the others."""
    n, channels, *side = x.shape
    keys = torch.rand(n, side[0] * side[1], generator=g)
    keys[: n // 2] = keys[:1].clone()
    return x.flatten(2).gather(2, keys.argsort(1)[:, None].expand(-1, channels, -1)).view_as(x)


def collage(x: Tensor, labels: Tensor, g: Generator) -> Tensor:
    """Each pixel from another image: right marginals, wrong joint distribution."""
    return x.gather(0, torch.randint(len(x), (len(x), 1, *x.shape[2:]), generator=g).expand_as(x))


def averaged_pair(x: Tensor, labels: Tensor, g: Generator) -> Tensor:
    """Mixture of two images of different classes."""
    weight = between(x, 0.35, 0.65, g)
    return weight * x + (1 - weight) * x[_other_class(labels, g)]


def averaged_many(x: Tensor, labels: Tensor, g: Generator) -> Tensor:
    """Mean of five images."""
    return torch.stack([x[torch.randint(len(x), (len(x),), generator=g)] for _ in range(5)]).mean(0)


def halves(x: Tensor, labels: Tensor, g: Generator) -> Tensor:
    """The left or upper half of an image joined to the other half of one of another class."""
    side = x.shape[-1]
    first = torch.arange(side) < side // 2
    kept = torch.where(torch.rand(len(x), 1, 1, 1, generator=g) < 0.5, first, first[:, None])
    return torch.where(kept, x, x[_other_class(labels, g)])


def strong_noise(x: Tensor, labels: Tensor, g: Generator) -> Tensor:
    """An image under noise of 0.3 to 0.8 of its range."""
    return x + between(x, 0.3, 0.8, g) * torch.randn(x.shape, generator=g)


def heavy_blur(x: Tensor, labels: Tensor, g: Generator) -> Tensor:
    """Every pixel the mean of 5/8 of the side around it."""
    return between(x, 0.7, 1.5, g) * _mean_filter(x, _odd(5 / 8, x))


def constant(x: Tensor, labels: Tensor, g: Generator) -> Tensor:
    """One grey, with little noise or none."""
    return between(x, 0, 1, g) + between(x, 0, 0.1, g) * torch.randn(x.shape, generator=g)


FAMILIES: tuple[Callable[[Tensor, Tensor, Generator], Tensor], ...] = (
    gaussian_noise,
    uniform_noise,
    smooth_noise,
    shuffled,
    collage,
    averaged_pair,
    averaged_many,
    halves,
    strong_noise,
    heavy_blur,
    constant,
)


def between(x: Tensor, low: float, high: float, g: Generator) -> Tensor:
    """One uniform number per image, N 1 1 1."""
    return low + (high - low) * torch.rand(len(x), 1, 1, 1, generator=g)


def _mean_filter(x: Tensor, width: int) -> Tensor:
    return F.avg_pool2d(x, width, stride=1, padding=width // 2, count_include_pad=False)


def _odd(share: float, x: Tensor) -> int:
    """An odd number of pixels, about that share of the side."""
    return 2 * int(share * x.shape[-1] / 2) + 1


def _other_class(labels: Tensor, g: Generator) -> Tensor:
    """For each image, the index of a random image of another class, or of any where there is no other."""
    different = (labels[:, None] != labels[None, :]).float()
    different[different.sum(1) == 0] = 1
    return torch.multinomial(different, 1, generator=g).squeeze(1)
