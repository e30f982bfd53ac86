"""The UNet of Ho et al. 2020 (DDPM), Appendix B: residual blocks, self-attention at chosen sizes, skips by concatenation.

Where the paper is silent this follows the authors' code, github.com/hojonathanho/diffusion, `models/unet.py` and `nn.py`.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, TypeVar, cast

import torch
from annotated_types import Ge, MinLen
from torch import Tensor, nn
from torch.nn import functional as F

from ddpm_lab.domains import Given, HalfOpenUnit, Incompatible, PositiveFloat, PositiveInt, checked, shown
from ddpm_lab.nets.embedding import class_table, embedded, sinusoidal

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


def fan_avg(layer: Layer, gain: float = 1.0) -> Layer:
    """DDPM `nn.py`: weights uniform with variance gain² / fan_avg (Glorot & Bengio 2010, Eq. 16), biases zero.

    Layers that end a residual branch have gain 0, so the branch starts as the identity (the authors write 1e-10).
    """
    nn.init.xavier_uniform_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def conv3x3(inputs: int, outputs: int, gain: float = 1.0) -> nn.Conv2d:
    """[B, inputs, H, W] -> [B, outputs, H, W]."""
    return fan_avg(nn.Conv2d(inputs, outputs, 3, padding=1), gain)


def group_norm(width: int, groups: int) -> nn.GroupNorm:
    """Wu & He 2018, with the ε = 1e-6 of TensorFlow, where torch has 1e-5."""
    return nn.GroupNorm(groups, width, eps=1e-6)


class ResBlock(nn.Module):
    """Two convolutions and a shortcut; the time embedding shifts the features between them, before the second norm, or with
    `scale_shift` scales and shifts them after it (iDDPM section 3, after Dhariwal & Nichol's "adaptive group norm")."""

    def __init__(self, inputs: int, outputs: int, emb: int, groups: int, dropout: float, scale_shift: bool = False) -> None:
        super().__init__()
        self.norm1 = group_norm(inputs, groups)
        self.conv1 = conv3x3(inputs, outputs)
        self.scale_shift = scale_shift
        self.time = fan_avg(nn.Linear(emb, 2 * outputs if scale_shift else outputs))
        self.norm2 = group_norm(outputs, groups)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = conv3x3(outputs, outputs, gain=0)
        self.shortcut = nn.Identity() if inputs == outputs else fan_avg(nn.Conv2d(inputs, outputs, 1))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """[B, inputs, H, W], [B, emb] -> [B, outputs, H, W]."""
        h = self.conv1(F.silu(self.norm1(x)))
        time = self.time(emb)[:, :, None, None]
        if self.scale_shift:
            scale, shift = time.chunk(2, dim=1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + time)
        return self.shortcut(x) + self.conv2(self.dropout(F.silu(h)))


class Attention(nn.Module):
    """Self-attention over the H·W positions (Vaswani et al. 2017, Eq. 1); DDPM has one head, as wide as the features."""

    def __init__(self, width: int, groups: int, heads: int = 1) -> None:
        super().__init__()
        self.heads = heads
        self.norm = group_norm(width, groups)
        self.qkv = fan_avg(nn.Linear(width, 3 * width))
        self.out = fan_avg(nn.Linear(width, width), gain=0)
        # Query, key and value are three layers fused into one: each has the fan of its own square matrix.
        for weight in self.qkv.weight.chunk(3):
            nn.init.xavier_uniform_(weight)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, H, W] -> the same."""
        rows = self.norm(x).flatten(2).transpose(1, 2)  # [B, H·W, width]; a view if x is channels_last
        query, key, value = self.qkv(rows).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [B, heads, H·W, ...]
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return x + self.out(mixed).transpose(1, 2).unflatten(2, x.shape[2:])


class Downsample(nn.Module):
    """Halve the side by a convolution of stride 2, padded below and to the right, as TensorFlow's "SAME" does."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = fan_avg(nn.Conv2d(width, width, 3, stride=2))

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, H, W] -> [B, width, H/2, W/2]."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double the side by repeating every pixel, then convolve. Off a GPU both are one transposed convolution of stride 2, which
    saves the products that the repeated pixels share."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = conv3x3(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, H, W] -> [B, width, 2H, 2W]."""
        if x.is_cuda:
            return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
        kernel = doubled(doubled(self.conv.weight, 2), 3).transpose(0, 1)
        return F.conv_transpose2d(x, kernel, self.conv.bias, stride=2, padding=1)


def doubled(weight: Tensor, dim: int) -> Tensor:
    """Three taps on repeated pixels along `dim`, as the four taps that they are on the pixels themselves."""
    a, b, c = weight.unbind(dim)
    return torch.stack([c, b + c, a + b, a], dim)


class Block(nn.Module):
    """A residual block and, at the sizes that attend, self-attention."""

    def __init__(self, inputs: int, outputs: int, attends: bool, heads: int, **res: Any) -> None:
        super().__init__()
        self.res = ResBlock(inputs, outputs, **res)
        self.attention = Attention(outputs, res["groups"], heads) if attends else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """[B, inputs, H, W], [B, emb] -> [B, outputs, H, W]."""
        return self.attention(self.res(x, emb))


class DownStage(nn.Module):
    """All the work at one size on the way down: the layer that enters this size, then the blocks."""

    def __init__(self, enter: nn.Module, blocks: list[Block]) -> None:
        super().__init__()
        self.enter = enter
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, emb: Tensor) -> list[Tensor]:
        """The features after every layer, one for each block of the `UpStage` of the same size."""
        states = [self.enter(x)]
        for block in self.blocks:
            states.append(block(states[-1], emb))
        return states


class UpStage(nn.Module):
    """All the work at one size on the way up: blocks that also read `DownStage`'s features, last first, then leave."""

    def __init__(self, blocks: list[Block], leave: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.leave = leave

    def features(self, h: Tensor, states: list[Tensor], emb: Tensor) -> Tensor:
        """[B, width below, H, W], the states of this size -> [B, width, H, W]."""
        for block, state in zip(self.blocks, reversed(states), strict=True):
            h = block(torch.cat([h, state], dim=1), emb)
        return h

    def forward(self, h: Tensor, states: list[Tensor], emb: Tensor) -> Tensor:
        """The same -> the input of the next size up, or the output."""
        return self.leave(self.features(h, states, emb))


@checked
class UNet(nn.Module):
    """DDPM Appendix B: predicts from x_t and t; the defaults are the CIFAR-10 network, 35.7 million parameters.

    `in_channels`, `out_channels`, `size` (the image side) and `classes` (how many conditional data have) come from the data and
    the variance. Labels are 0..classes, the last for none. Raises ValueError for widths that `groups` or `heads` do not divide,
    Incompatible for images that do not halve or never have a size of `attention`. The output is zero at initialisation.
    """

    def __init__(
        self,
        in_channels: Given[int],
        out_channels: Given[int],
        size: Given[int | None],
        channels: Annotated[int, Ge(2)] = 128,
        multipliers: Annotated[tuple[PositiveInt, ...], MinLen(1)] = (1, 2, 2, 2),
        blocks: PositiveInt = 2,
        attention: tuple[PositiveInt, ...] = (16,),
        groups: PositiveInt = 32,
        dropout: HalfOpenUnit = 0.1,
        heads: PositiveInt = 1,
        scale_shift: bool = False,
        time_scale: PositiveFloat = 1.0,
        *,
        classes: Given[int | None] = None,
    ) -> None:
        super().__init__()
        widths = check_widths(channels, multipliers, groups, heads)
        sides = check_sides(size, multipliers, attention)
        entries = [channels, *widths[:-1]]  # features that enter each size, and are its first skip
        below = [*widths[1:], widths[-1]]  # features that come up to it, the lowest from the middle
        block = partial(Block, heads=heads, emb=4 * channels, groups=groups, dropout=dropout, scale_shift=scale_shift)
        down, up = [], []
        for i, (width, side) in enumerate(zip(widths, sides, strict=True)):
            make = partial(block, outputs=width, attends=side in attention)
            same = blocks * [width]
            enter = Downsample(entries[i]) if i > 0 else conv3x3(in_channels, channels)
            leave = Upsample(width) if i > 0 else head(width, out_channels, groups)
            inputs = zip([below[i], *same], [*same, entries[i]], strict=True)  # features from below, and the skip
            down.append(DownStage(enter, [make(n) for n in [entries[i], *same[1:]]]))
            up.append(UpStage([make(n + skip) for n, skip in inputs], leave))
        self.channels, self.time_scale = channels, time_scale
        self.time = time_layers(channels)
        self.down = nn.ModuleList(down)
        self.middle = nn.ModuleList([block(widths[-1], widths[-1], attends=attends) for attends in (True, False)])
        self.up = nn.ModuleList(reversed(up))
        self.classes = class_table(classes, 4 * channels)

    def features(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """What `forward` takes -> [B, width of the largest size, H, W]: what the output is made of."""
        emb = embedded(self.time, self.classes, sinusoidal(t * self.time_scale, self.channels, x.dtype), labels)
        h, states = x, []
        for stage in self.down:
            states.append(stage(h, emb))
            h = states[-1][-1]
        for block in self.middle:
            h = block(h, emb)
        *below, largest = self.up
        for stage in below:
            h = stage(h, states.pop(), emb)
        return cast(UpStage, largest).features(h, states.pop(), emb)

    def leave(self, features: Tensor) -> Tensor:
        """-> out [B, out_channels, H, W]."""
        return cast(UpStage, self.up[-1]).leave(features)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """x_t [B, in_channels, H, W], the paper's t in 1..T, [B], labels [B] of a network with classes
        -> out [B, out_channels, H, W]."""
        return self.leave(self.features(x, t, labels))


def time_layers(channels: int) -> nn.Sequential:
    """[B, channels] -> [B, 4 channels]. The last SiLU is the one every residual block would apply to it."""
    return nn.Sequential(
        fan_avg(nn.Linear(channels, 4 * channels)), nn.SiLU(), fan_avg(nn.Linear(4 * channels, 4 * channels)), nn.SiLU()
    )


def head(width: int, outputs: int, groups: int) -> nn.Sequential:
    """[B, width, H, W] -> [B, outputs, H, W], zero at initialisation."""
    return nn.Sequential(group_norm(width, groups), nn.SiLU(), conv3x3(width, outputs, gain=0))


def check_widths(channels: int, multipliers: Sequence[int], groups: int, heads: int) -> list[int]:
    """The width at each resolution, which may attend and is a multiple of `heads`. Every width is a multiple of `groups`; then
    so is every sum of two, which is what the way up normalises. Raises ValueError."""
    widths = [channels * m for m in multipliers]
    for width in widths:
        if width % heads:
            raise ValueError(f"heads={heads} does not divide the width {width}; use heads={math.gcd(heads, width)}")
    for width in (channels, *widths):
        if width % groups:
            raise ValueError(
                f"groups={groups} does not divide the width {width} that channels={channels} multipliers={shown(multipliers)} "
                f"give; use groups={math.gcd(groups, channels, *widths)} or channels={math.ceil(channels / groups) * groups}"
            )
    return widths


def check_sides(size: int | None, multipliers: Sequence[int], attention: Sequence[int]) -> list[int]:
    """The image side at each resolution; it halves exactly, and every side in `attention` occurs. Raises Incompatible."""
    if size is None:
        raise Incompatible("UNet takes images, and the data are vectors", "net", "data")
    sides = [size // 2**i for i in range(len(multipliers))]
    if size % 2 ** (len(multipliers) - 1):
        raise Incompatible(
            f"multipliers={shown(multipliers)} halves images {len(multipliers) - 1} times, and those of size={size} cannot be: "
            f"size must be a multiple of {2 ** (len(multipliers) - 1)}",
            "net",
            "data",
        )
    if missing := [side for side in attention if side not in sides]:
        raise Incompatible(
            f"attention={shown(attention)}: images of size={size} never have the size {missing[0]}; allowed are the sizes "
            f"{shown(sides)} that they pass through",
            "net",
            "data",
        )
    return sides
