"""github.com/ermongroup/ddim, whose CIFAR-10 and LSUN networks are Ho et al.'s, converted."""

from collections.abc import Sequence
from typing import ClassVar

from ddpm_lab.errors import UserError
from ddpm_lab.interop.layout import Block, Ends, Found, Layout, Weights, shape_of
from ddpm_lab.interop.measured import Scanned, measured, of_ho
from ddpm_lab.interop.source import Source
from ddpm_lab.nets.unet import Level


class DDIMLayout(Layout):
    name = "ddim"
    ends = Ends("conv_in", ("temb.dense.0", "temb.dense.1"), "norm_out", "conv_out", "label_emb")
    res: ClassVar = {
        "norm1": "norm1",
        "conv1": "conv1",
        "time": "temb_proj",
        "norm2": "norm2",
        "conv2": "conv2",
        "shortcut": "nin_shortcut",
    }
    attention: ClassVar = {"norm": ("norm",), "qkv": ("q", "k", "v"), "out": ("proj_out",)}
    middle = (Block("mid.block_1", "mid.attn_1"), Block("mid.block_2"))
    kernel_dims = 2

    def recognises(self, weights: Weights) -> bool:
        return "temb.dense.0.weight" in weights

    def down(self, levels: Sequence[Level], i: int, j: int) -> Block:
        return Block(f"down.{i}.block.{j}", f"down.{i}.attn.{j}")

    def up(self, levels: Sequence[Level], i: int, j: int) -> Block:
        return Block(f"up.{i}.block.{j}", f"up.{i}.attn.{j}")

    def downsample(self, levels: Sequence[Level], i: int) -> str:
        return f"down.{i - 1}.downsample.conv"

    def upsample(self, levels: Sequence[Level], i: int) -> str:
        return f"up.{i}.upsample.conv"

    def found(self, weights: Weights, source: Source) -> Found:
        levels: list[Scanned] = []
        while (key := f"down.{len(levels)}.block.0.conv1.weight") in weights:
            i, blocks = len(levels), 0
            while f"down.{i}.block.{blocks}.conv1.weight" in weights:
                blocks += 1
            levels.append(Scanned(shape_of(weights, key, str(source.path))[0], blocks, f"down.{i}.attn.0.q.weight" in weights))
        if not levels:
            raise UserError(f"{source.path}: down.0.block.0.conv1.weight is missing")
        found = measured(self, weights, levels, "down.0.block.0", str(source.path))
        if any(key.endswith("conv_shortcut.weight") for key in weights):
            raise UserError(f"{source.path}: conv_shortcut: shortcuts of 3×3 (model.conv_shortcut) are of no UNet here")
        return of_ho(
            found, "as all configurations of this code have it", "as Ho et al. trained and sampled; it is a sampler's choice"
        )
