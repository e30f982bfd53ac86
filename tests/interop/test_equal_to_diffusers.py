"""What `save_pretrained` of diffusers writes comes in as the same network, and its scheduler's chain as the same samples."""

import json
import math
import shutil
import warnings

import pytest
import torch
from brought import brought
from torch import nn

from ddpm_lab.core.sampler import DDIM
from ddpm_lab.core.spacing import Optimal

CIFAR10 = {
    "sample_size": 32, "in_channels": 3, "out_channels": 3, "block_out_channels": [16, 32, 32, 32], "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"], "norm_num_groups": 8, "norm_eps": 1e-6,
    "attention_head_dim": None, "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1,
}  # fmt: skip
"""google/ddpm-cifar10-32, but for widths, groups and blocks."""
LINEAR = {"variance_type": "fixed_large", "clip_sample": True, "timestep_spacing": "leading"}
CASES = {
    "cifar10": {},
    "two_blocks": {"layers_per_block": 2},
    "defaults": {"downsample_padding": 1, "flip_sin_to_cos": True, "freq_shift": 0, "norm_eps": 1e-5, "attention_head_dim": 8},
    "learned": {"out_channels": 6, "resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 8},
    "time_width": {"time_embedding_dim": 24, "norm_eps": 1e-2},
}


class Sinusoids(nn.Module):
    """In float64, where diffusers computes them in float32 whatever the weights."""

    def __init__(self, width: int, flip_sin_to_cos: bool, freq_shift: float):
        super().__init__()
        omega = [math.exp(-math.log(10_000) * i / (width // 2 - freq_shift)) for i in range(width // 2)]
        self.omega, self.flip = torch.tensor(omega, dtype=torch.float64), flip_sin_to_cos

    def forward(self, t):
        parts = [(t[:, None] * self.omega).sin(), (t[:, None] * self.omega).cos()]
        return torch.cat(parts[::-1] if self.flip else parts, dim=1)


def saved(folder, safe=True, **changes):
    """A UNet2DModel with random weights, and the pipeline's folder that it was saved to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from diffusers import DDPMScheduler, UNet2DModel
    net, generator = UNet2DModel(**CIFAR10 | changes).eval(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in net.named_parameters():
            noise, norm = torch.randn(p.shape, generator=generator), p.ndim == 1 and name.endswith("weight")
            p.copy_(noise / p[0].numel() ** 0.5 if p.ndim > 1 else norm + 0.3 * noise)
    net.save_pretrained(folder / "saved" / "unet", safe_serialization=safe)
    learned = {"variance_type": "learned_range"} if changes.get("out_channels") == 6 else {}
    DDPMScheduler(**LINEAR | learned).save_pretrained(folder / "saved" / "scheduler")
    return net


def in_float64(net):
    net.time_proj = Sinusoids(net.config.block_out_channels[0], net.config.flip_sin_to_cos, net.config.freq_shift)
    return net.double()


@pytest.mark.parametrize("case", CASES)
def test_output_equals_that_of_diffusers(case, tmp_path):
    theirs = saved(tmp_path, safe=case != "two_blocks", **CASES[case])
    run = brought(tmp_path, "saved", "data=cifar10")
    x, t = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64), torch.tensor([1, 613])
    with torch.no_grad():
        single = run.net(x.float(), t) - theirs(x.float(), t - 1).sample
        expected = in_float64(theirs)(x, t - 1).sample
        double = run.net.double()(x, t) - expected
    assert expected.std() > 0.1
    assert single.abs().max() < 1e-5
    assert double.abs().max() < 1e-11


def test_a_repository_of_the_first_versions_comes_in(tmp_path):
    """As google/ddpm-cifar10-32 is: all files in one folder, a short config.json, and the old names of attention."""
    theirs, folder = saved(tmp_path), tmp_path / "saved"
    short = {"_class_name": "UNet2DModel", "act_fn": "silu", "mid_block_scale_factor": 1, "time_embedding_type": "positional"}
    (folder / "config.json").write_text(json.dumps(CIFAR10 | short))
    (folder / "scheduler" / "scheduler_config.json").rename(folder / "scheduler_config.json")
    weights = theirs.state_dict()
    for new, old in {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}.items():
        weights = {name.replace(f".{new}.", f".{old}."): value for name, value in weights.items()}
    torch.save(weights, folder / "diffusion_pytorch_model.bin")
    shutil.rmtree(folder / "unet")
    run, x = brought(tmp_path, "saved", "data=cifar10"), torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert (run.net(x, torch.tensor([500])) - theirs(x, 499).sample).abs().max() < 1e-5


def test_a_ddim_chain_equals_that_of_diffusers(tmp_path):
    """50 steps in float64, with the float32 table of diffusers' scheduler replaced by that of its formula, and ε̂ that of the
    clipped x̂_0, as in the code of Ho, DDIM and OpenAI."""
    from diffusers import DDIMScheduler

    theirs, run = in_float64(saved(tmp_path)), brought(tmp_path, "saved", "data=cifar10")
    scheduler = DDIMScheduler.from_pretrained(tmp_path / "saved" / "scheduler", timestep_spacing="trailing")
    scheduler.alphas_cumprod = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    scheduler.final_alpha_cumprod = torch.ones((), dtype=torch.float64)
    scheduler.set_timesteps(50)
    start = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x = start
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(theirs(x, t[None]).sample, int(t), x, use_clipped_model_output=True).prev_sample
    times = tuple(1 + int(t) for t in reversed(scheduler.timesteps))
    ours = DDIM(50, spacing="optimal", optimal=Optimal(times, 1))
    *_, last = ours(run.diffusion, run.net.double(), start, torch.randn_like)
    assert (x.abs() < 1).double().mean() > 0.05
    assert (last.x - x).abs().max() < 1e-9
