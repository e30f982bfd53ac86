"""github.com/tqch/ddpm-torch."""

from collections.abc import Sequence
from typing import ClassVar

from ddpm_lab.errors import UserError
from ddpm_lab.interop.layout import Block, Ends, Found, Layout, Weights, shape_of
from ddpm_lab.interop.measured import Scanned, measured, of_ho
from ddpm_lab.interop.source import Source
from ddpm_lab.nets.unet import Level


class DDPMTorch(Layout):
    name = "ddpm_torch"
    ends = Ends("in_conv", ("embed.0", "embed.2"), "out_conv.0", "out_conv.2", "class_embed")
    res: ClassVar = {"norm1": "norm1", "conv1": "conv1", "time": "fc", "norm2": "norm2", "conv2": "conv2", "shortcut": "skip"}
    attention: ClassVar = {"norm": ("norm",), "qkv": ("project_in",), "out": ("project_out",)}
    middle = (Block("middle.0", "middle.1"), Block("middle.2"))
    kernel_dims = 2

    def recognises(self, weights: Weights) -> bool:
        return {"in_conv.weight", "embed.0.weight"} <= weights.keys()

    def down(self, levels: Sequence[Level], i: int, j: int) -> Block:
        return _within(f"downsamples.level_{i}.{j}", levels[i])

    def up(self, levels: Sequence[Level], i: int, j: int) -> Block:
        return _within(f"upsamples.level_{i}.{j}", levels[i])

    def downsample(self, levels: Sequence[Level], i: int) -> str:
        return f"downsamples.level_{i - 1}.{levels[i - 1].blocks}.1"

    def upsample(self, levels: Sequence[Level], i: int) -> str:
        return f"upsamples.level_{i}.{levels[i].blocks + 1}.1"

    def found(self, weights: Weights, source: Source) -> Found:
        levels: list[Scanned] = []
        while (first := _first(weights, len(levels))) is not None:
            i, attends = len(levels), first.endswith(".0.0")
            inner, blocks = ".0" if attends else "", 0
            while f"downsamples.level_{i}.{blocks}{inner}.conv1.weight" in weights:
                blocks += 1
            width = shape_of(weights, f"{first}.conv1.weight", str(source.path))[0]
            levels.append(Scanned(width, blocks, attends))
        if not levels:
            raise UserError(f"{source.path}: downsamples.level_0.0.conv1.weight is missing")
        found = measured(self, weights, levels, _first(weights, 0) or "", str(source.path))
        of_faces = "celeba" in source.path.name.lower()
        of_variance = f"as its configuration of {'CelebA' if of_faces else 'CIFAR-10'} has it"
        return of_ho(found, "as its configurations have it", of_variance, "beta_tilde" if of_faces else "beta")


def _within(place: str, level: Level) -> Block:
    """Where it attends, a residual block and its attention are two in a row."""
    return Block(f"{place}.0", f"{place}.1") if level.attends else Block(place)


def _first(weights: Weights, i: int) -> str | None:
    places = (f"downsamples.level_{i}.0", f"downsamples.level_{i}.0.0")
    return next((place for place in places if f"{place}.conv1.weight" in weights), None)
