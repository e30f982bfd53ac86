"""What no network here can be, one setting or weight at a time: it is refused by its name, and without it the file is read."""

from pathlib import Path
from typing import Any

import pytest
import torch
from described import found_in
from imports import CONFIG
from originals import listed
from torch import Tensor

from ddpm_lab.errors import UserError
from ddpm_lab.interop.recognise import LAYOUTS, looked_at
from ddpm_lab.interop.source import Source, read

SCHEDULER: dict[str, Any] = {"_class_name": "DDPMScheduler", "variance_type": "fixed_large"}
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "act_fn": ({"act_fn": "gelu"}, {"act_fn": "swish"}),
    "add_attention": ({"add_attention": False}, {"add_attention": True}),
    "center_input_sample": ({"center_input_sample": True}, {"center_input_sample": False}),
    "class_embed_type": ({"class_embed_type": "timestep"}, {"class_embed_type": None}),
    "num_class_embeds": ({"num_class_embeds": 10}, {"num_class_embeds": None}),
    "downsample_type": ({"downsample_type": "resnet"}, {"downsample_type": "conv"}),
    "upsample_type": ({"upsample_type": "resnet"}, {"upsample_type": "conv"}),
    "mid_block_scale_factor": ({"mid_block_scale_factor": 1.5}, {"mid_block_scale_factor": 1.0}),
    "num_train_timesteps": ({"num_train_timesteps": 1000}, {"num_train_timesteps": None}),
    "time_embedding_type": ({"time_embedding_type": "learned"}, {"time_embedding_type": "positional"}),
    "attn_norm_num_groups": ({"attn_norm_num_groups": 2}, {"attn_norm_num_groups": CONFIG["norm_num_groups"]}),
    "attn_norm_num_groups=None": (
        {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": None},
        {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": CONFIG["norm_num_groups"]},
    ),
}
"""Of config.json: what is refused, and what is not."""


def refused(folder: Path, config: dict[str, Any], scheduler: dict[str, Any], *named: str) -> None:
    with pytest.raises(UserError) as told:
        found_in(folder, config, scheduler)
    assert all(part in str(told.value) for part in (str(folder), *named)), told.value


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_of_another_network_is_refused(name, tmp_path):
    bad, good = SETTINGS[name]
    key = name.partition("=")[0]
    found_in(tmp_path, CONFIG | good, SCHEDULER)
    refused(tmp_path, CONFIG | bad, SCHEDULER, key, str(bad[key]))


LEARNED = {"variance_type": "learned_range"}
OF_SCHEDULER: dict[str, tuple[int, dict[str, Any], dict[str, Any]]] = {
    "clip_sample_range": (1, {"clip_sample_range": 2.0}, {"clip_sample_range": 1.0}),
    "prediction_type": (1, {"prediction_type": "flow_prediction"}, {"prediction_type": "sample"}),
    "rescale_betas_zero_snr": (
        1,
        {"rescale_betas_zero_snr": True, "beta_schedule": "squaredcos_cap_v2"},
        {"rescale_betas_zero_snr": True, "beta_schedule": "scaled_linear"},
    ),
    "variance_type": (1, LEARNED, {"variance_type": "fixed_small"}),
    "variance_type of two outputs": (2, {"variance_type": "fixed_small"}, LEARNED),
}
"""Of scheduler_config.json beside a network of so many outputs for one channel."""


@pytest.mark.parametrize("name", OF_SCHEDULER)
def test_a_scheduler_of_another_process_is_refused(name, tmp_path):
    outputs, bad, good = OF_SCHEDULER[name]
    config, key = CONFIG | {"out_channels": outputs}, name.partition(" ")[0]
    found_in(tmp_path, config, SCHEDULER | good)
    refused(tmp_path, config, SCHEDULER | bad, key)


def _moved(weights: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {key.replace(old, new): value for key, value in weights.items()}


def shortcuts_of_3x3(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """As model.conv_shortcut of ddim makes them."""
    return {
        key: value.expand(-1, -1, 3, 3) if key.endswith("conv_shortcut.weight") else value
        for key, value in _moved(weights, "nin_shortcut", "conv_shortcut").items()
    }


def blocks_that_change_the_size(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """As resblock_updown of guided-diffusion makes them, on the way down: a residual block where the convolution was."""
    block = {
        key.replace("blocks.1.", "blocks.2."): value for key, value in weights.items() if key.startswith("input_blocks.1.")
    }
    return {key: value for key, value in weights.items() if not key.startswith("input_blocks.2.")} | block


def classes(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return weights | {"label_emb.weight": torch.zeros(10, 128)}


def pooling(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """conv_resample=False: nothing of a level's entrance has weights, but its number is taken."""
    kept = {key: value for key, value in weights.items() if not key.startswith("input_blocks.2.")}
    return kept | {"input_blocks.2.0.other": torch.zeros(1)}


WEIGHTS = {
    "conv_shortcut": ("ddim", "ddim", shortcuts_of_3x3),
    "resblock_updown": ("improved_diffusion", "openai", blocks_that_change_the_size),
    "resblock_updown of guided": ("guided_diffusion", "openai", blocks_that_change_the_size),
    "label_emb": ("improved_diffusion", "openai", classes),
    "label_emb of guided": ("guided_diffusion", "openai", classes),
    "input_blocks.2.0": ("improved_diffusion", "openai", pooling),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_of_another_network_are_refused(name):
    layout, keys, changed = WEIGHTS[name]
    weights, key = listed(keys), name.partition(" ")[0]
    looked_at(LAYOUTS[layout], Source(Path("theirs.pt"), {"given": weights}, {}), "given", {})
    with pytest.raises(UserError) as told:
        looked_at(LAYOUTS[layout], Source(Path("theirs.pt"), {"given": changed(weights)}, {}), "given", {})
    assert "theirs.pt" in str(told.value)
    assert key in str(told.value)


def test_a_checkpoint_of_this_project_is_sent_to_the_other_commands(tmp_path):
    """Without the keys that mark it, the same file is a state dict in a wrapper."""
    content = {"state_dict": {"net.down.0.enter.weight": torch.zeros(1)}, "config": {}, "global_step": 7}
    torch.save(content, path := tmp_path / "last.ckpt")
    with pytest.raises(UserError, match="ckpt="):
        read(path)
    torch.save({"state_dict": content["state_dict"]}, path)
    assert "given" in read(path).weights
