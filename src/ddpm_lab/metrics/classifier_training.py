"""Training of the classifier in `classifier.py`: a convnet on real images and fresh non-images in every batch."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ddpm_lab.metrics.non_images import FAMILIES, between

RECIPE = 1
"""Raise with any change below: cached weights of another recipe are not used."""
BATCH = 64
FEATURES = 128
LEARNING_RATE = 3e-3
REJECT_WEIGHT = 0.5
"""Weight of *reject* in the loss: at 1 some 5% of real digits are rejected, at 0.5 3 to 4%."""
JITTER = 0.05
"""Largest noise on real images, less than one of 17 grey levels, so that a trace of noise is not rejected."""
SHOWN = 250_000
"""Training images shown at most where `epochs` is None."""


def default_epochs(n: int) -> int:
    """20 epochs of n images, fewer beyond 12,500 of them."""
    return max(1, min(20, SHOWN // n))


class Head(nn.Module):
    """Flat N×D to logits N×classes, the last of them *reject*; `hidden`, after its ReLU, are the features."""

    def __init__(self, dim: int, outputs: int) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(dim, FEATURES), nn.Linear(FEATURES, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.hidden(F.dropout(x, 0.3, self.training)))
        return self.out(F.dropout(x, 0.3, self.training))


def convnet(shape: tuple[int, ...], classes: int) -> nn.Sequential:
    """A trunk that halves the side until it is 7 or less, and a head, for images C S S. From 16 pixels on the first layer,
    which would cost more than all others, halves it too."""
    channels, side = shape[0], shape[-1]
    if side < 16:
        width, layers = 16, [*_layer(channels, 16)]
    else:
        width, layers, side = 32, [*_layer(channels, 32, kernel=5, stride=2)], -(-side // 2)
    while side > 7:
        layers += [*_layer(width, min(2 * width, 128)), nn.MaxPool2d(2)]
        width, side = min(2 * width, 128), side // 2
    layers += [*_layer(width, 3 * width // 2), nn.Flatten()]
    return nn.Sequential(nn.Sequential(*layers), Head(3 * width // 2 * side**2, classes + 1))


def _layer(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2), nn.BatchNorm2d(outputs), nn.ReLU()


def quantise(x: Tensor, levels: int) -> Tensor:
    """[0, 1] to the nearest grey level, in [0, 1]."""
    return (x * (levels - 1)).round().clamp(0, levels - 1) / (levels - 1)


def train(images: Tensor, labels: Tensor, classes: int, levels: int, flip: bool, seed: int, epochs: int) -> nn.Sequential:
    """The network in eval mode, from uint8 images N C S S. Leaves torch's generator as it was, and uses one thread, so that
    sums have one order."""
    g = Generator().manual_seed(seed)
    batches = max(1, len(images) // BATCH)
    weight = torch.tensor([1.0] * classes + [REJECT_WEIGHT])
    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.default_generator.manual_seed(seed)  # of initial weights and of dropout
        net = convnet(tuple(images.shape[1:]), classes).train()
        optim = torch.optim.AdamW(net.parameters(), weight_decay=1e-2)
        rate = torch.optim.lr_scheduler.OneCycleLR(optim, LEARNING_RATE, epochs * batches)
        for _ in range(epochs):
            for rows in torch.randperm(len(images), generator=g).tensor_split(batches):
                x = images.index_select(0, rows).float() / (levels - 1)
                inputs, targets = with_non_images(x, labels[rows], classes, flip, g)
                loss = F.cross_entropy(net(quantise(inputs, levels)), targets, weight)
                optim.zero_grad()
                loss.backward()
                optim.step()
                rate.step()
    return net.eval().requires_grad_(False)


def with_non_images(x: Tensor, labels: Tensor, classes: int, flip: bool, g: Generator) -> tuple[Tensor, Tensor]:
    """Images in [0, 1] with a trace of noise, mirrored or not, then as many non-images made of them: 2N images and classes."""
    made = torch.cat([family(x, labels, g) for family in FAMILIES])
    made = made[torch.randperm(len(made), generator=g)[: len(x)]]
    if flip:
        x = torch.where(torch.rand(len(x), 1, 1, 1, generator=g) < 0.5, x, x.flip(-1))
    x = x + between(x, 0, JITTER, g) * torch.randn(x.shape, generator=g)
    return torch.cat([x, made]), torch.cat([labels, torch.full_like(labels, classes)])


@torch.no_grad()
def accuracy(net: nn.Sequential, images: Tensor, labels: Tensor, levels: int) -> float:
    """Share of uint8 images whose most likely class other than *reject* is their label."""
    right = 0
    with _one_thread():
        for x, label in zip(images.split(1024), labels.split(1024), strict=True):
            right += int((net(x.float() / (levels - 1))[:, :-1].argmax(1) == label).sum())
    return right / len(images)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
