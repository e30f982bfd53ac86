"""The networks of other code, written from the papers: plain functions on the names that weights have in their files.

`layouts/*.txt` list each layer and the shape of its weight as the original classes print them, with 32 channels, multipliers
1, 2, 2, one block a level and attention at level 1. Every layer has a bias of the weight's first dimension.
"""

import math
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = dict[str, Tensor]
LISTS = Path(__file__).parent / "layouts"
GROUPS = 32


def listed(name: str, seed: int = 0) -> Weights:
    """A float32 state dict with the names and shapes of a list, its features of order one. Norms are around 1."""
    generator, weights = torch.Generator().manual_seed(seed), {}
    for line in (LISTS / f"{name}.txt").read_text().splitlines():
        layer, shape = line.split()
        sizes = [int(n) for n in shape.split(",")]
        fan = math.prod(sizes[1:])
        weight = torch.randn(sizes, generator=generator)
        weights[f"{layer}.weight"] = weight / math.sqrt(fan) if len(sizes) > 1 else 1 + 0.3 * weight
        weights[f"{layer}.bias"] = 0.3 * torch.randn(sizes[0], generator=generator)
    return weights


class Network:
    """What the four have in common: a residual block, attention, features of time. Subclasses walk their own names."""

    res: tuple[str, str, str, str, str, str]
    """Norm, convolution, time, norm, convolution, shortcut."""
    eps = 1e-6
    cos_first = False
    shift = 1
    scale_shift = False
    time: tuple[str, str]

    def __init__(self, weights: Weights) -> None:
        self.w = {name: value.double() for name, value in weights.items()}

    def layer(self, name: str, x: Tensor, **options: int) -> Tensor:
        """A convolution over images, or a linear layer over rows."""
        weight, bias = self.w[f"{name}.weight"], self.w[f"{name}.bias"]
        return F.conv2d(x, weight, bias, **options) if x.ndim == 4 else x @ weight.T + bias

    def conv3(self, name: str, x: Tensor) -> Tensor:
        return self.layer(name, x, padding=1)

    def norm(self, name: str, x: Tensor) -> Tensor:
        grouped = x.reshape(len(x), GROUPS, -1)
        centred = grouped - grouped.mean(2, keepdim=True)
        normal = (centred / (centred.square().mean(2, keepdim=True) + self.eps).sqrt()).reshape(x.shape)
        return normal * self.w[f"{name}.weight"][:, None, None] + self.w[f"{name}.bias"][:, None, None]

    def embedding(self, fed: Tensor) -> Tensor:
        """Of the times that the network is fed, which begin at 0."""
        half = self.w[f"{self.time[0]}.weight"].shape[1] // 2
        omega = torch.tensor([10_000 ** (-i / (half - self.shift)) for i in range(half)], dtype=torch.float64)
        phase = fed.double()[:, None] * omega
        parts = (phase.cos(), phase.sin()) if self.cos_first else (phase.sin(), phase.cos())
        hidden = self.layer(self.time[0], torch.cat(parts, dim=1))
        return F.silu(self.layer(self.time[1], F.silu(hidden)))

    def residual(self, place: str, x: Tensor, emb: Tensor) -> Tensor:
        norm1, conv1, time, norm2, conv2, shortcut = (f"{place}.{name}" for name in self.res)
        h = self.conv3(conv1, F.silu(self.norm(norm1, x)))
        moved = self.layer(time, emb)[:, :, None, None]
        if self.scale_shift:
            scale, shift = moved.chunk(2, dim=1)
            h = self.norm(norm2, h) * (1 + scale) + shift
        else:
            h = self.norm(norm2, h + moved)
        h = self.conv3(conv2, F.silu(h))
        return h + (self.layer(shortcut, x) if f"{shortcut}.weight" in self.w else x)

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """One head: each B × features × positions."""
        scores = torch.einsum("bci,bcj->bij", q, k) / math.sqrt(q.shape[1])
        return torch.einsum("bij,bcj->bci", scores.softmax(dim=2), v)

    def doubled(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)

    def after(self, x: Tensor) -> Tensor:
        """A column to the right and a row below, as TensorFlow's SAME pads for a stride of 2."""
        return F.pad(x, (0, 1, 0, 1))


class DDIMNetwork(Network):
    """github.com/ermongroup/ddim. Levels are numbered from the largest, on both ways."""

    res = ("norm1", "conv1", "temb_proj", "norm2", "conv2", "nin_shortcut")
    time = ("temb.dense.0", "temb.dense.1")

    def attended(self, place: str, x: Tensor) -> Tensor:
        if f"{place}.q.weight" not in self.w:
            return x
        rows = self.norm(f"{place}.norm", x)
        q, k, v = (self.layer(f"{place}.{name}", rows).flatten(2) for name in "qkv")
        return x + self.layer(f"{place}.proj_out", self.mixed(q, k, v).reshape(x.shape))

    def __call__(self, x: Tensor, fed: Tensor) -> Tensor:
        emb = self.embedding(fed)
        skips = [self.layer("conv_in", x, padding=1)]
        for i in range(3):
            skips.append(self.attended(f"down.{i}.attn.0", self.residual(f"down.{i}.block.0", skips[-1], emb)))
            if i < 2:
                skips.append(self.layer(f"down.{i}.downsample.conv", self.after(skips[-1]), stride=2))
        h = self.attended("mid.attn_1", self.residual("mid.block_1", skips[-1], emb))
        h = self.residual("mid.block_2", h, emb)
        for i in (2, 1, 0):
            for j in range(2):
                h = self.residual(f"up.{i}.block.{j}", torch.cat([h, skips.pop()], dim=1), emb)
                h = self.attended(f"up.{i}.attn.{j}", h)
            h = self.conv3(f"up.{i}.upsample.conv", self.doubled(h)) if i else h
        return self.conv3("conv_out", F.silu(self.norm("norm_out", h)))


class DDPMTorchNetwork(Network):
    """github.com/tqch/ddpm-torch. What attends is a pair of a residual block and an attention."""

    res = ("norm1", "conv1", "fc", "norm2", "conv2", "skip")
    time = ("embed.0", "embed.2")

    def attention(self, place: str, x: Tensor) -> Tensor:
        q, k, v = self.layer(f"{place}.project_in", self.norm(f"{place}.norm", x)).flatten(2).chunk(3, dim=1)
        return x + self.layer(f"{place}.project_out", self.mixed(q, k, v).reshape(x.shape))

    def unit(self, place: str, x: Tensor, emb: Tensor) -> Tensor:
        if f"{place}.conv1.weight" in self.w:
            return self.residual(place, x, emb)
        return self.attention(f"{place}.1", self.residual(f"{place}.0", x, emb))

    def __call__(self, x: Tensor, fed: Tensor) -> Tensor:
        emb = self.embedding(fed)
        skips = [self.conv3("in_conv", x)]
        for i in range(3):
            skips.append(self.unit(f"downsamples.level_{i}.0", skips[-1], emb))
            if i < 2:
                skips.append(self.layer(f"downsamples.level_{i}.1.1", self.after(skips[-1]), stride=2))
        h = self.attention("middle.1", self.residual("middle.0", skips[-1], emb))
        h = self.residual("middle.2", h, emb)
        for i in (2, 1, 0):
            for j in range(2):
                h = self.unit(f"upsamples.level_{i}.{j}", torch.cat([h, skips.pop()], dim=1), emb)
            h = self.conv3(f"upsamples.level_{i}.2.1", self.doubled(h)) if i else h
        return self.conv3("out_conv.2", F.silu(self.norm("out_conv.0", h)))


class OpenAINetwork(Network):
    """github.com/openai/improved-diffusion and guided-diffusion: two rows of units, and a skip after each of the first."""

    res = ("in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3", "skip_connection")
    time = ("time_embed.0", "time_embed.2")
    eps, cos_first, shift, scale_shift = 1e-5, True, 0, True

    def __init__(self, weights: Weights, heads: int, by_head: bool = True) -> None:
        """`heads` of each attention; `by_head`: whether the rows of qkv are those of the first head, then of the second."""
        super().__init__(
            {name: value[..., 0] if "qkv.w" in name or "proj_out.w" in name else value for name, value in weights.items()}
        )
        self.heads, self.by_head = heads, by_head

    def attention(self, place: str, x: Tensor) -> Tensor:
        B, C, rows = len(x), x.shape[1], self.norm(f"{place}.norm", x).flatten(2)
        qkv = self.w[f"{place}.qkv.weight"] @ rows + self.w[f"{place}.qkv.bias"][:, None]
        width, mixed = C // self.heads, []
        for head in range(self.heads):
            starts = [(3 * head + i) * width if self.by_head else i * C + head * width for i in range(3)]
            mixed.append(self.mixed(*(qkv[:, start : start + width] for start in starts)))
        out = self.w[f"{place}.proj_out.weight"] @ torch.cat(mixed, dim=1) + self.w[f"{place}.proj_out.bias"][:, None]
        return x + out.reshape(B, C, *x.shape[2:])

    def unit(self, place: str, h: Tensor, emb: Tensor) -> Tensor:
        """All layers of one number, in turn."""
        for i in range(3):
            kinds = {
                name.removeprefix(f"{place}.{i}.").rpartition(".")[0] for name in self.w if name.startswith(f"{place}.{i}.")
            }
            if "in_layers.0" in kinds:
                h = self.residual(f"{place}.{i}", h, emb)
            elif "qkv" in kinds:
                h = self.attention(f"{place}.{i}", h)
            elif "op" in kinds:
                h = self.layer(f"{place}.{i}.op", h, stride=2, padding=1)
            elif "conv" in kinds:
                h = self.conv3(f"{place}.{i}.conv", self.doubled(h))
        return h

    def __call__(self, x: Tensor, fed: Tensor) -> Tensor:
        emb = self.embedding(fed)
        skips = [self.conv3("input_blocks.0.0", x)]
        for k in range(1, 6):
            skips.append(self.unit(f"input_blocks.{k}", skips[-1], emb))
        h = self.unit("middle_block", skips[-1], emb)
        for k in range(6):
            h = self.unit(f"output_blocks.{k}", torch.cat([h, skips.pop()], dim=1), emb)
        return self.conv3("out.2", F.silu(self.norm("out.0", h)))
