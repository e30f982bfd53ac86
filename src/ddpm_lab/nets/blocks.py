"""The layers of the UNet of Ho et al. 2020 (DDPM), Appendix B, and what checkpoints of other code differ in.

Where the paper is silent this follows the authors' code, github.com/hojonathanho/diffusion, `models/unet.py` and `nn.py`.
"""

from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DownPadding = Literal["after", "around"]
"""Of the strided convolution: a row below and a column to the right, as TensorFlow's "SAME", or one on every side.
"""
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


class Norm(NamedTuple):
    """The group normalisations (Wu & He 2018) of one network. ε is 1e-6 in TensorFlow and 1e-5 in torch."""

    groups: int
    eps: float = 1e-6

    def of(self, width: int) -> nn.GroupNorm:
        return nn.GroupNorm(self.groups, width, eps=self.eps)


class ResBlock(nn.Module):
    """Two convolutions and a shortcut; the time embedding shifts the features between them, before the second norm, or with
    `scale_shift` scales and shifts them after it (iDDPM section 3, after Dhariwal & Nichol's "adaptive group norm")."""

    def __init__(self, inputs: int, outputs: int, emb: int, norm: Norm, dropout: float, scale_shift: bool = False) -> None:
        super().__init__()
        self.norm1 = norm.of(inputs)
        self.conv1 = conv3x3(inputs, outputs)
        self.scale_shift = scale_shift
        self.time = fan_avg(nn.Linear(emb, 2 * outputs if scale_shift else outputs))
        self.norm2 = norm.of(outputs)
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

    def __init__(self, width: int, norm: Norm, heads: int = 1) -> None:
        super().__init__()
        self.heads = heads
        self.norm = norm.of(width)
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
    """Halve the side by a convolution of stride 2."""

    def __init__(self, width: int, padding: DownPadding = "after") -> None:
        super().__init__()
        self.after = padding == "after"
        self.conv = fan_avg(nn.Conv2d(width, width, 3, stride=2, padding=0 if self.after else 1))

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, H, W] -> [B, width, H/2, W/2]."""
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.after else x)


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
        self.attention = Attention(outputs, res["norm"], heads) if attends else nn.Identity()

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


def time_layers(features: int, width: int) -> nn.Sequential:
    """[B, features] -> [B, width]. The last SiLU is the one every residual block would apply to it."""
    return nn.Sequential(fan_avg(nn.Linear(features, width)), nn.SiLU(), fan_avg(nn.Linear(width, width)), nn.SiLU())


def head(width: int, outputs: int, norm: Norm) -> nn.Sequential:
    """[B, width, H, W] -> [B, outputs, H, W], zero at initialisation."""
    return nn.Sequential(norm.of(width), nn.SiLU(), conv3x3(width, outputs, gain=0))
