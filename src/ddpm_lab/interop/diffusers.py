"""huggingface/diffusers: `UNet2DModel` with the scheduler of a DDPM or DDIM pipeline."""

import re
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le, MaxLen, MinLen

from ddpm_lab.domains import ClosedUnit, HalfOpenUnit, PositiveFloat, Size, accepts, allowed
from ddpm_lab.errors import UserError
from ddpm_lab.interop.layout import Block, Ends, Found, Layout, Weights, multipliers_of
from ddpm_lab.interop.source import Source
from ddpm_lab.nets.unet import Level
from ddpm_lab.plain import brief

OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names of the layers of an attention before version 0.15, and now."""
FIXED: dict[str, tuple[Any, ...]] = {
    "_class_name": ("UNet2DModel",),
    "act_fn": ("silu", "swish"),
    "add_attention": (True,),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "downsample_type": ("conv",),
    "mid_block_scale_factor": (1, 1.0),
    "mid_block_type": ("UNetMidBlock2D", None),
    "num_class_embeds": (None,),
    "num_train_timesteps": (None,),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "time_embedding_type": ("positional",),
    "upsample_type": ("conv",),
}
"""Settings of which a UNet here has one value, or two."""
DEFAULTS: dict[str, Any] = {
    "attention_head_dim": 8,
    "attn_norm_num_groups": None,
    "downsample_padding": 1,
    "dropout": 0.0,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "layers_per_block": 2,
    "norm_eps": 1e-5,
    "norm_num_groups": 32,
    "resnet_time_scale_shift": "default",
    "time_embedding_dim": None,
}
"""Of the class, where config.json lacks a key."""
Width: Any = Annotated[int, Ge(1), Le(2**16)]
Kinds: Any = Annotated[list[str], MinLen(1), MaxLen(16)]
DOMAINS: dict[str, Any] = {
    "in_channels": Width,
    "out_channels": Width,
    "sample_size": Width | None,
    "block_out_channels": Annotated[list[Width], MinLen(1), MaxLen(16)],
    "down_block_types": Kinds,
    "up_block_types": Kinds,
    "layers_per_block": Annotated[int, Ge(1), Le(100)],
    "attention_head_dim": Width | None,
    "attn_norm_num_groups": Width | None,
    "downsample_padding": Literal[0, 1],
    "dropout": HalfOpenUnit | Literal[0],
    "flip_sin_to_cos": bool,
    "freq_shift": Literal[0, 1, 0.0, 1.0],
    "norm_eps": PositiveFloat,
    "norm_num_groups": Width,
    "time_embedding_dim": Width | None,
}
"""Of config.json; those that are not in `DEFAULTS` are needed, as files have them."""
Spacing = Literal["leading", "linspace", "trailing"]
OF_SCHEDULER: dict[str, Any] = {
    "_class_name": str,
    "num_train_timesteps": Size,
    "beta_start": ClosedUnit,
    "beta_end": ClosedUnit,
    "clip_sample": bool,
    "clip_sample_range": PositiveFloat,
    "dynamic_thresholding_ratio": ClosedUnit,
    "rescale_betas_zero_snr": bool,
    "sample_max_value": PositiveFloat,
    "thresholding": bool,
    "timestep_spacing": Spacing,
    "use_flow_sigmas": Literal[False, None],
}
"""Of scheduler_config.json; texts that stand for an option are looked up."""
OF_DDPM: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "prediction_type": "epsilon",
    "variance_type": "fixed_small",
    "timestep_spacing": "leading",
    "clip_sample": True,
}
"""Of DDPMScheduler, where scheduler_config.json lacks a key."""
UNLIMITED = {"clip_sample": False}
MULTISTEP = {**UNLIMITED, "timestep_spacing": "linspace"}
CLASSES: dict[str, dict[str, Any]] = {
    **{f"{name}Scheduler": {} for name in ("DDPM", "DDPMParallel", "DDIM", "DDIMParallel")},
    "PNDMScheduler": UNLIMITED,
    **{f"{name}MultistepScheduler": MULTISTEP for name in ("DEIS", "DPMSolver", "UniPC")},
    **{f"{name}DiscreteScheduler": MULTISTEP for name in ("Euler", "EulerAncestral", "LMS")},
    "HeunDiscreteScheduler": {**MULTISTEP, "beta_start": 0.00085, "beta_end": 0.012},
}
"""Schedulers whose β and predictions mean what those of DDPMScheduler do, with what they have by default in place of its."""
SCHEDULES = {"linear": "linear", "scaled_linear": "quadratic", "squaredcos_cap_v2": "cosine", "sigmoid": "sigmoid_beta"}
PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
OPTIONS = {
    "num_train_timesteps": "schedule.T",
    "beta_schedule": "schedule",
    "beta_start": "schedule.beta_start",
    "beta_end": "schedule.beta_end",
    "prediction_type": "prediction",
}
"""Keys of scheduler_config.json, and ours that have their values."""
VARIANCES = {
    "fixed_small": "beta_tilde",
    "fixed_small_log": "beta_tilde",
    "fixed_large": "beta",
    "fixed_large_log": "beta",
    "learned_range": "learned_range",
}


class Diffusers(Layout):
    name = "diffusers"
    ends = Ends(
        "conv_in", ("time_embedding.linear_1", "time_embedding.linear_2"), "conv_norm_out", "conv_out", "class_embedding"
    )
    res: ClassVar = {
        "norm1": "norm1", "conv1": "conv1", "time": "time_emb_proj", "norm2": "norm2", "conv2": "conv2",
        "shortcut": "conv_shortcut",
    }  # fmt: skip
    attention: ClassVar = {"norm": ("group_norm",), "qkv": ("to_q", "to_k", "to_v"), "out": ("to_out.0",)}
    middle = (Block("mid_block.resnets.0", "mid_block.attentions.0"), Block("mid_block.resnets.1"))

    def recognises(self, weights: Weights) -> bool:
        return "conv_in.weight" in weights and any(key.startswith("down_blocks.") for key in weights)

    def current(self, weights: Weights) -> Weights:
        def renamed(key: str) -> str:
            return re.sub(r"(attentions\.\d+\.)(query|key|value|proj_attn)\.", lambda m: f"{m[1]}{OLD[m[2]]}.", key)

        return {renamed(key): value for key, value in weights.items()}

    def down(self, levels: Sequence[Level], i: int, j: int) -> Block:
        return Block(f"down_blocks.{i}.resnets.{j}", f"down_blocks.{i}.attentions.{j}")

    def up(self, levels: Sequence[Level], i: int, j: int) -> Block:
        k = len(levels) - 1 - i
        return Block(f"up_blocks.{k}.resnets.{j}", f"up_blocks.{k}.attentions.{j}")

    def downsample(self, levels: Sequence[Level], i: int) -> str:
        return f"down_blocks.{i - 1}.downsamplers.0.conv"

    def upsample(self, levels: Sequence[Level], i: int) -> str:
        return f"up_blocks.{len(levels) - 1 - i}.upsamplers.0.conv"

    def found(self, weights: Weights, source: Source) -> Found:
        place, config = str(source.path), source.config()
        if config is None:
            raise UserError(
                f"{place}: weights of diffusers without the config.json that says which network they are of: give its folder"
            )
        net = network(config, place)
        found = Found(net, config["in_channels"], config["out_channels"], config.get("sample_size"))
        scheduled(found, source.scheduler(), place)
        return found


def network(config: dict[str, Any], place: str) -> dict[str, Any]:
    """The parameters of `UNet`, of config.json. Raises UserError for a setting that it cannot have."""
    c = _settings(config, f"{place}: config.json")
    down, up = c["down_block_types"], c["up_block_types"]
    kinds = {"DownBlock2D": False, "AttnDownBlock2D": True, "UpBlock2D": False, "AttnUpBlock2D": True}
    if unknown := [kind for kind in [*down, *up] if kind not in kinds]:
        raise UserError(f"{place}: config.json: {brief(unknown[0])}: the UNet here has {', '.join(kinds)}")
    if not len(down) == len(up) == len(c["block_out_channels"]):
        raise UserError(f"{place}: config.json: block_out_channels, down_block_types and up_block_types are not as many")
    if [kinds[kind] for kind in down] != [kinds[kind] for kind in reversed(up)]:
        raise UserError(
            f"{place}: attention at {', '.join(down)} and at {', '.join(up)}: the UNet here has it both ways or not"
        )
    shift, groups, of_attention = c["resnet_time_scale_shift"], c["norm_num_groups"], c["attn_norm_num_groups"]
    if of_attention not in ((groups,) if shift == "scale_shift" else (None, groups)):
        what = "no normalisation" if of_attention is None else f"{of_attention} groups"
        raise UserError(
            f"{place}: attn_norm_num_groups={of_attention}: {what} in the middle attention; the UNet here has {groups}"
        )
    channels, width = c["block_out_channels"][0], c["time_embedding_dim"]
    return {
        "channels": channels,
        "multipliers": multipliers_of(c["block_out_channels"], channels, place),
        "blocks": c["layers_per_block"],
        "attention": [i for i, kind in enumerate(down) if kinds[kind]],
        "groups": groups,
        "dropout": float(c["dropout"]),
        "scale_shift": shift == "scale_shift",
        "head_width": c["attention_head_dim"],
        "norm_eps": float(c["norm_eps"]),
        "down_padding": "around" if c["downsample_padding"] else "after",
        "time_offset": -1.0,
        "time_order": "cos_sin" if c["flip_sin_to_cos"] else "sin_cos",
        "time_shift": float(c["freq_shift"]),
        "time_width": None if width in (None, 4 * channels) else width,
    }


def _settings(config: dict[str, Any], place: str) -> dict[str, Any]:
    """With the class's own where the file has none. Raises UserError for what no UNet here has."""
    for key, values in FIXED.items():
        if (value := config.get(key, values[0])) not in values:
            has = " or ".join(map(str, dict.fromkeys(values)))
            raise UserError(f"{place}: {key}={brief(value)}: the UNet here has {has}")
    c = dict.fromkeys(DOMAINS) | DEFAULTS | {key: values[0] for key, values in FIXED.items()} | config
    _check(c, DOMAINS, place)
    return c


def scheduled(found: Found, scheduler: dict[str, Any] | None, place: str) -> None:
    """Put what scheduler_config.json says beside it. Raises UserError for what no option here is."""
    learned = found.outputs == 2 * found.channels
    if scheduler is None:
        found.asked["schedule",] = "schedule=linear"
        absent = "as there is no scheduler_config.json"
        found.assume({"schedule.T": 1000, "prediction": "eps"}, absent)
        found.assume({"variance": "learned_range" if learned else "beta", "loss": "hybrid" if learned else "simple"}, absent)
        return
    place = f"{place}: scheduler_config.json"
    _check(scheduler, OF_SCHEDULER, place)
    kind = scheduler.get("_class_name", "DDPMScheduler")
    if kind not in CLASSES:
        raise UserError(f"{place}: _class_name={brief(kind)}: allowed is {', '.join(CLASSES)}")
    s = {**OF_DDPM, **CLASSES[kind], **scheduler}
    variance = _one(VARIANCES, s["variance_type"] or OF_DDPM["variance_type"], "variance_type", place)
    if learned != (variance == "learned_range"):
        raise UserError(
            f"{place}: variance_type={scheduler.get('variance_type')} does not go with out_channels={found.outputs} and "
            f"in_channels={found.channels}"
        )
    found.words |= _schedule(s, place)
    found.words["prediction"] = _one(PREDICTIONS, s["prediction_type"], "prediction_type", place)
    found.words |= {"variance": variance, "loss": "hybrid" if learned else "simple"}
    if scheduler.get("variance_type") is None:
        found.assumed["variance"] = "the default of diffusers' DDPMScheduler, as the scheduler's file says none"
    if "_class_name" not in scheduler:
        absent = [word for key, word in OPTIONS.items() if key not in scheduler and word in found.words]
        found.assumed |= dict.fromkeys(
            absent, f"the default of {kind}, as scheduler_config.json says neither this nor its class"
        )
    _limited(found, s, place)
    if (spacing := s["timestep_spacing"]) != "trailing":
        found.notes.append(f"few steps are sampler.spacing=trailing, where diffusers would take timestep_spacing={spacing}")


def _limited(found: Found, s: dict[str, Any], place: str) -> None:
    """What limits x̂_0. The largest s of thresholding is 1 by default in diffusers, which is to clamp to [−1, 1]."""
    largest = s.get("sample_max_value", 1)
    if s.get("thresholding") and largest != 1:
        reason = f"without a largest value, where diffusers has sample_max_value={largest}"
        found.assume({"sampler.clip": s.get("dynamic_thresholding_ratio", 0.995)}, reason)
    elif not s.get("thresholding") and s["clip_sample"] is False:
        found.words["sampler.clip"] = False
    elif not s.get("thresholding") and (side := s.get("clip_sample_range", 1)) != 1:
        raise UserError(f"{place}: clip_sample_range={side}: x̂_0 is limited to 1 here")


def _schedule(s: dict[str, Any], place: str) -> dict[str, object]:
    """Its words. Raises UserError for what no schedule here is."""
    if s.get("trained_betas") is not None:
        raise UserError(f"{place}: trained_betas: a table of β; the schedules here are formulas")
    kind = s["beta_schedule"]
    words = {"schedule": _one(SCHEDULES, kind, "beta_schedule", place), "schedule.T": s["num_train_timesteps"]}
    if s.get("rescale_betas_zero_snr"):
        if kind not in ("linear", "scaled_linear"):
            raise UserError(f"{place}: rescale_betas_zero_snr with beta_schedule={kind}: here it goes with linear")
        words |= {"schedule": "zero_terminal_snr", "schedule.base": SCHEDULES[kind]}
    if kind != "squaredcos_cap_v2":
        words |= {"schedule.beta_start": s["beta_start"], "schedule.beta_end": s["beta_end"]}
    return words


def _check(settings: dict[str, Any], domains: dict[str, Any], place: str) -> None:
    """Raises UserError for the first that lies outside its domain."""
    for key, domain in domains.items():
        if key in settings and not accepts(domain, settings[key]):
            raise UserError(f"{place}: {key}={brief(settings[key])}: allowed is {allowed(domain)}")


def _one(known: dict[str, str], value: Any, key: str, place: str) -> str:
    if not isinstance(value, str) or value not in known:
        raise UserError(f"{place}: {key}={brief(value)}: allowed is {', '.join(known)}")
    return known[value]
