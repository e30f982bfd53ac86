"""A UNet as diffusers and OpenAI's codes describe one, read off the network. What they cannot have is refused by name."""

import copy
from collections.abc import Mapping
from typing import Any

import torch

from ddpm_lab.domains import shown
from ddpm_lab.errors import UserError
from ddpm_lab.interop.layout import blocks_of
from ddpm_lab.nets.unet import UNet

SCRIPTED = {32: [1, 2, 2, 2], 64: [1, 2, 3, 4], 256: [1, 1, 2, 2, 4, 4]}
"""The multipliers that the scripts of improved-diffusion have, by the side of images; those of guided-diffusion take any."""

ALIKE: dict[str, Any] = {
    "_class_name": "UNet2DModel",
    "act_fn": "silu",
    "add_attention": True,
    "center_input_sample": False,
    "class_embed_type": None,
    "downsample_type": "conv",
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2D",
    "num_class_embeds": None,
    "num_train_timesteps": None,
    "time_embedding_type": "positional",
    "upsample_type": "conv",
}
"""Settings of UNet2DModel that every network here has."""


def counted_from_0(net: UNet) -> UNet:
    """The same function of t by the features of scale · (t − 1), which other code feeds: equal up to rounding. The features of
    scale · (t + offset) are those with each pair sin, cos rotated by ω · scale · (1 + offset), and in a copy of the network the
    first layer of the time embedding takes the rotation. By an offset of −1 it is the network itself."""
    sinusoids = net.sinusoids
    if sinusoids.offset == -1:
        return net
    angle = sinusoids.frequencies() * sinusoids.scale * (1 + sinusoids.offset)
    net = copy.deepcopy(net)
    net.sinusoids = sinusoids._replace(offset=-1.0)
    first: Any = net.time[0]
    half, forward = sinusoids.width // 2, 1 if sinusoids.order == "sin_cos" else -1
    sin, cos = first.weight.detach().double().cpu()[:, : 2 * half].split(half, dim=1)[::forward]
    turned = [sin * angle.cos() - cos * angle.sin(), sin * angle.sin() + cos * angle.cos()]
    with torch.no_grad():
        first.weight[:, : 2 * half] = torch.cat(turned[::forward], dim=1).to(first.weight)
    return net


def parameters_of(net: UNet) -> dict[str, Any]:
    """The parameters of `UNet`; of `time_width` the number itself, and of `heads` and `head_width` those of every attention."""
    levels, sinusoids = net.levels, net.sinusoids
    norm: Any = net.up[-1].leave[0]  # type: ignore[union-attr, index]
    res: Any = net.middle[0].res
    time, lower = net.time[0], [stage.enter for stage in net.down][1:]
    attending = [level for level in levels if level.attends] + [levels[-1]]  # the middle attends too
    return {
        "channels": sinusoids.width,
        "multipliers": [level.width // sinusoids.width for level in levels],
        "blocks": blocks_of([level.blocks for level in levels]),
        "attention": [level.side for level in levels if level.attends],
        "groups": norm.num_groups,
        "dropout": res.dropout.p,
        "heads": [level.heads for level in attending],
        "head_width": [level.width // level.heads for level in attending],
        "scale_shift": res.scale_shift,
        "time_scale": sinusoids.scale,
        "time_order": sinusoids.order,
        "time_shift": sinusoids.shift,
        "time_width": time.out_features,
        "norm_eps": norm.eps,
        "down_padding": "after" if all(getattr(enter, "after") for enter in lower) else "around",  # noqa: B009
    }


def ends_of(net: UNet) -> tuple[int, int]:
    """The channels that enter and leave."""
    enter: Any = net.down[0].enter
    leave: Any = net.up[-1].leave[2]  # type: ignore[union-attr, index]
    return enter.in_channels, leave.out_channels


def unet2d(net: UNet, head_width: int | None = None) -> dict[str, Any]:
    """unet/config.json of diffusers, whose UNet2DModel is `net` as `counted_from_0`. `head_width`: as the network was made
    with, since one head can be said in two ways. Raises UserError."""
    own, (channels, outputs) = parameters_of(net), ends_of(net)
    _check(net, own, "diffusers", {"time_scale": (1,)})
    heads, widths = own["heads"], set(own["head_width"])
    if len(widths) > 1 and set(heads) != {1}:
        raise UserError(
            f"to=diffusers: net.heads={heads[0]}: heads of {', '.join(map(str, sorted(widths)))} features; allowed are "
            "heads of one width (net.head_width), or net.heads=1"
        )
    if own["channels"] // 2 == own["time_shift"]:
        raise UserError(f"to=diffusers: net.channels={own['channels']}: allowed is 4 and more, below which it divides by 0")
    shift, one_each = own["time_shift"], set(heads) == {1} and head_width is None
    kinds = ["Attn" * level.attends for level in net.levels]
    return {
        **ALIKE,
        "attention_head_dim": None if one_each else widths.pop(),
        "attn_norm_num_groups": own["groups"] if own["scale_shift"] else None,
        "block_out_channels": [level.width for level in net.levels],
        "down_block_types": [f"{kind}DownBlock2D" for kind in kinds],
        "downsample_padding": 0 if own["down_padding"] == "after" else 1,
        "dropout": own["dropout"],
        "flip_sin_to_cos": own["time_order"] == "cos_sin",
        "freq_shift": int(shift) if float(shift).is_integer() else shift,
        "in_channels": channels,
        "layers_per_block": own["blocks"],
        "norm_eps": own["norm_eps"],
        "norm_num_groups": own["groups"],
        "out_channels": outputs,
        "resnet_time_scale_shift": "scale_shift" if own["scale_shift"] else "default",
        "sample_size": net.levels[0].side,
        "time_embedding_dim": None if own["time_width"] == 4 * own["channels"] else own["time_width"],
        "up_block_types": [f"{kind}UpBlock2D" for kind in reversed(kinds)],
    }


def openai_script(net: UNet, T: int) -> tuple[str, dict[str, Any]]:
    """Which of OpenAI's two codes, and the arguments by which its scripts make `net` as `counted_from_0`. Raises UserError."""
    own, (channels, _), size = parameters_of(net), ends_of(net), net.levels[0].side
    fixed: dict[str, tuple[Any, ...]] = {"norm_eps": (1e-5,), "groups": (32,), "down_padding": ("around",)}
    fixed |= {"time_order": ("cos_sin",), "time_shift": (0,), "time_width": (4 * own["channels"],)}
    _check(net, own, "openai", fixed | {"time_scale": (1, 1000 / T)})
    if channels != 3:
        raise UserError(f"to=openai: data of {channels} channels: allowed is 3, of which their scripts make networks")
    if not own["attention"]:
        raise UserError("to=openai: net.attention=[]: allowed is one size or more, as their scripts cannot name none")
    by_number, by_width = len(set(own["heads"])) == 1, len(set(own["head_width"])) == 1
    if not by_number and not by_width:
        raise UserError(f"to=openai: net.heads={own['heads']}: allowed are as many heads, or heads as wide, at every level")
    arguments: dict[str, Any] = {
        "image_size": size,
        "num_channels": own["channels"],
        "num_res_blocks": own["blocks"],
        "attention_resolutions": ",".join(map(str, own["attention"])),
        "num_heads" if by_number else "num_head_channels": own["heads" if by_number else "head_width"][0],
        "use_scale_shift_norm": own["scale_shift"],
        "dropout": own["dropout"],
        "rescale_timesteps": own["time_scale"] == 1000 / T,
    }
    if by_number and own["multipliers"] == SCRIPTED.get(size):
        return "improved-diffusion", arguments
    return "guided-diffusion", arguments | {"channel_mult": ",".join(map(str, own["multipliers"]))}


def _check(net: UNet, own: Mapping[str, Any], to: str, fixed: Mapping[str, tuple[Any, ...]]) -> None:
    if net.classes is not None:
        raise UserError(f"to={to}: data.conditional=true: allowed is false, as a class that stands for none has no place there")
    if not isinstance(own["blocks"], int):
        raise UserError(f"to={to}: net.blocks={shown(own['blocks'])}: allowed is one number for all levels")
    for key, values in fixed.items():
        if own[key] not in values:
            allowed = " or ".join(map(shown, dict.fromkeys(values)))
            raise UserError(f"to={to}: net.{key}={shown(own[key])}: allowed is {allowed}, as every network of that code has it")
