"""github.com/openai/improved-diffusion and guided-diffusion, whose files name the same layers."""

from collections.abc import Sequence
from typing import ClassVar

from ddpm_lab.errors import UserError
from ddpm_lab.interop.layout import BY_LENGTH, Block, Ends, Found, Layout, Weights, shape_of
from ddpm_lab.interop.measured import Scanned, measured
from ddpm_lab.interop.source import Source
from ddpm_lab.nets.unet import Level

DEFAULT = "the default of this code"


class OpenAI(Layout):
    """Blocks and the layers between levels are counted in one row, `input_blocks` down and `output_blocks` up."""

    ends = Ends("input_blocks.0.0", ("time_embed.0", "time_embed.2"), "out.0", "out.2", "label_emb")
    res: ClassVar = {
        "norm1": "in_layers.0", "conv1": "in_layers.2", "time": "emb_layers.1",
        "norm2": "out_layers.0", "conv2": "out_layers.3", "shortcut": "skip_connection",
    }  # fmt: skip
    attention: ClassVar = {"norm": ("norm",), "qkv": ("qkv",), "out": ("proj_out",)}
    middle = (Block("middle_block.0", "middle_block.1"), Block("middle_block.2"))
    kernel_dims = 1
    by_head = True

    def recognises(self, weights: Weights) -> bool:
        return {"time_embed.0.weight", "input_blocks.0.0.weight"} <= weights.keys()

    def down(self, levels: Sequence[Level], i: int, j: int) -> Block:
        return _numbered("input_blocks", 1 + sum(level.blocks + 1 for level in levels[:i]) + j)

    def up(self, levels: Sequence[Level], i: int, j: int) -> Block:
        return _numbered("output_blocks", sum(level.blocks + 1 for level in levels[i + 1 :]) + j)

    def downsample(self, levels: Sequence[Level], i: int) -> str:
        return f"input_blocks.{sum(level.blocks + 1 for level in levels[:i])}.0.op"

    def upsample(self, levels: Sequence[Level], i: int) -> str:
        last = sum(level.blocks + 1 for level in levels[i:]) - 1
        return f"output_blocks.{last}.{2 if levels[i].attends else 1}.conv"

    def found(self, weights: Weights, source: Source) -> Found:
        """Of what both codes have in common."""
        place = str(source.path)
        if "label_emb.weight" in weights:
            raise UserError(
                f"{place}: label_emb: its classes have no row that stands for none, which those of a network here have"
            )
        found = measured(self, weights, _scanned(weights, place), "input_blocks.1.0", place)
        if found.channels not in (1, 3):
            raise UserError(
                f"{place}: input_blocks.0.0.weight reads {found.channels} channels, as super-resolution; allowed is 1 or 3"
            )
        found.net |= {
            "groups": 32, "norm_eps": 1e-5, "down_padding": "around",
            "time_order": "cos_sin", "time_shift": 0.0, "time_offset": -1.0,
        }  # fmt: skip
        found.assume({"prediction": "eps"}, DEFAULT)
        found.assume({"schedule.rescale": True}, "as the linear β of this code are multiplied by 1000/T")
        if found.outputs == 2 * found.channels:
            found.words["variance"] = "learned_range"
            loss = "vlb" if "vlb" in source.path.name else "hybrid"
            found.assume({"loss": loss}, "by the name of the file; it plays no part in samples and bounds")
        else:
            found.assume({"variance": "beta", "loss": "simple"}, f"{DEFAULT} (sigma_small=False, use_kl=False)")
        return found


def _numbered(row: str, k: int) -> Block:
    return Block(f"{row}.{k}.0", f"{row}.{k}.1")


def _scanned(weights: Weights, place: str) -> list[Scanned]:
    levels, k = [Scanned(0, 0, False)], 1
    while any(key.startswith(f"input_blocks.{k}.") for key in weights):
        if (conv := f"input_blocks.{k}.0.in_layers.2.weight") in weights:
            width = shape_of(weights, conv, place)[0]
            attends = f"input_blocks.{k}.1.qkv.weight" in weights
            before = levels[-1]
            if before.blocks and (before.width, before.attends) != (width, attends):
                raise UserError(
                    f"{place}: input_blocks.{k}: a residual block that changes the size (resblock_updown), or one that differs "
                    "from those beside it, and the UNet here has neither"
                )
            levels[-1] = Scanned(width, before.blocks + 1, attends)
        elif f"input_blocks.{k}.0.op.weight" in weights:
            levels.append(Scanned(0, 0, False))
        else:
            raise UserError(
                f"{place}: input_blocks.{k}.0: neither a residual block nor a strided convolution (conv_resample=False?)"
            )
        k += 1
    if not levels[-1].blocks:
        raise UserError(f"{place}: input_blocks.{k - 1} ends the way down, where a residual block must")
    return levels


class ImprovedDiffusion(OpenAI):
    name = "improved_diffusion"

    def found(self, weights: Weights, source: Source) -> Found:
        found, name = super().found(weights, source), source.path.name
        of_name = "as the README of this code has it for a file of this name"
        of_lsun = name.startswith("lsun_uncond_")
        found.assume({"net.heads": 1 if of_lsun else 4}, of_name if of_lsun else DEFAULT)
        if name.startswith(("cifar10_uncond_", "imagenet64_uncond_")):
            found.assume({"schedule": "cosine", "schedule.T": 4000}, of_name)
        elif of_lsun:
            found.assume({"schedule": "linear", "schedule.T": 1000}, of_name)
        else:
            found.asked["schedule",] = "schedule=cosine schedule.T=4000"
            found.assume({"schedule.T": 1000}, DEFAULT)
        if of_lsun:
            found.assume({"net.time_scale": 1.0}, of_name)
        else:
            found.assume({"net.time_scale": BY_LENGTH}, f"which is {BY_LENGTH}, as rescale_timesteps=True is {DEFAULT}")
        return found


class GuidedDiffusion(OpenAI):
    name = "guided_diffusion"

    def recognises(self, weights: Weights) -> bool:
        """Only where it is asked for: its files name the same layers as those of improved-diffusion."""
        return False

    def found(self, weights: Weights, source: Source) -> Found:
        found = super().found(weights, source)
        found.asked["schedule",] = "schedule=linear schedule.T=1000"
        found.asked["net.heads", "net.head_width"] = "net.heads=4, or net.head_width=64"
        found.assume({"schedule.T": 1000}, DEFAULT)
        found.assume({"net.time_scale": 1.0}, f"as rescale_timesteps=False is {DEFAULT}; True is net.time_scale={BY_LENGTH}")
        return found
