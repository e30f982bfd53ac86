"""The UNet against diffusers' `UNet2DModel`, an independent implementation, and against its own definitions."""

import importlib
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.testing import assert_close

from ddpm_lab.nets.blocks import Attention, Norm
from ddpm_lab.nets.embedding import Sinusoids
from ddpm_lab.nets.unet import UNet

NETS = sorted((Path(__file__).parents[2] / "conf" / "net").glob("*.yaml"))
TINY = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (4,), "groups": 4, "dropout": 0.0}


def tiny(**changes):
    return UNet(**{"in_channels": 2, "out_channels": 3, "size": 8, **TINY, **changes})


def randomise(net: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter nonzero, the features of order one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in net.named_parameters():
            noise = torch.randn(p.shape, generator=generator, dtype=p.dtype)
            scale = p[0].numel() ** -0.5 if p.ndim > 1 else 0.3
            p.copy_(scale * noise + (p.ndim == 1 and name.endswith("weight")))  # norms around 1
    return net


def inputs(n: int, channels: int, size: int, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, channels, size, size, generator=generator, dtype=dtype), torch.linspace(7, 613, n).round()


# --- an independent implementation -------------------------------------------------------------------------------


class ExactTime(nn.Module):
    """diffusers embeds in float32 whatever the weights: replace that by NumPy's float64."""

    def __init__(self, width: int):
        super().__init__()
        self.omega = np.array([10_000 ** (-i / (width // 2 - 1)) for i in range(width // 2)])

    def forward(self, t):
        phase = t.double().numpy()[:, None] * self.omega
        return torch.from_numpy(np.concatenate([np.sin(phase), np.cos(phase)], axis=1))


def diffusers_unet(in_channels, out_channels, size, channels, multipliers, blocks, attention, groups, heads, scale_shift):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from diffusers import UNet2DModel
    attends = [size // 2**i in attention for i in range(len(multipliers))]
    net = UNet2DModel(
        sample_size=size,
        in_channels=in_channels,
        out_channels=out_channels,
        block_out_channels=[channels * m for m in multipliers],
        layers_per_block=blocks,
        down_block_types=["AttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        up_block_types=["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
        attention_head_dim=None if heads == 1 else channels // heads,
        resnet_time_scale_shift="scale_shift" if scale_shift else "default",
        norm_num_groups=groups,
        attn_norm_num_groups=groups,
        norm_eps=1e-6,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        dropout=0.0,
    ).double()
    net.time_proj = ExactTime(channels)
    return net


def block_names(ours: str, theirs: str, j: int) -> dict[str, list[str]]:
    names = {f"{ours}.res.{k}": [f"{theirs}.resnets.{j}.{k}"] for k in ("norm1", "conv1", "norm2", "conv2")}
    names[f"{ours}.res.time"] = [f"{theirs}.resnets.{j}.time_emb_proj"]
    names[f"{ours}.res.shortcut"] = [f"{theirs}.resnets.{j}.conv_shortcut"]
    names[f"{ours}.attention.norm"] = [f"{theirs}.attentions.{j}.group_norm"]
    names[f"{ours}.attention.qkv"] = [f"{theirs}.attentions.{j}.to_{k}" for k in "qkv"]
    names[f"{ours}.attention.out"] = [f"{theirs}.attentions.{j}.to_out.0"]
    return names


def layer_names(levels: int, blocks: int) -> dict[str, list[str]]:
    """Our layer -> theirs, three for the fused query, key and value."""
    head = f"up.{levels - 1}.leave"
    names = {"time.0": ["time_embedding.linear_1"], "time.2": ["time_embedding.linear_2"], "down.0.enter": ["conv_in"]}
    names |= {f"{head}.0": ["conv_norm_out"], f"{head}.2": ["conv_out"]}
    for i in range(levels - 1):
        names[f"down.{i + 1}.enter.conv"] = [f"down_blocks.{i}.downsamplers.0.conv"]
        names[f"up.{i}.leave.conv"] = [f"up_blocks.{i}.upsamplers.0.conv"]
    for i in range(levels):
        for j in range(blocks):
            names |= block_names(f"down.{i}.blocks.{j}", f"down_blocks.{i}", j)
        for j in range(blocks + 1):
            names |= block_names(f"up.{i}.blocks.{j}", f"up_blocks.{i}", j)
    return names | block_names("middle.0", "mid_block", 0) | block_names("middle.1", "mid_block", 1)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param((3, 3, 32, 128, (1, 2, 2, 2), 2, (16,), 32, 1, False), id="cifar10", marks=pytest.mark.soak),
        pytest.param((1, 2, 16, 16, (1, 3, 2), 3, (8, 4), 8, 1, False), id="two-attention-sizes"),
        pytest.param((3, 6, 8, 16, (1, 1), 1, (8, 4), 8, 4, True), id="heads-and-scale-shift"),
        pytest.param((2, 4, 8, 12, (1,), 1, (), 4, 1, True), id="one-size"),
    ],
)
def test_output_and_every_gradient_equal_diffusers(config):
    *sizes, heads, scale_shift = config
    ours = UNet(*sizes, dropout=0.0, heads=heads, scale_shift=scale_shift).double()
    theirs = diffusers_unet(*config)
    randomise(theirs)
    names = layer_names(len(config[4]), config[5])
    pairs = {}
    for name, p in ours.named_parameters():
        layer, kind = name.rsplit(".", 1)
        pairs[name] = p, [theirs.get_parameter(f"{other}.{kind}") for other in names[layer]]
        p.data.copy_(torch.cat([q.data for q in pairs[name][1]]))
    assert sum(len(others) for _, others in pairs.values()) == len(list(theirs.parameters()))

    x, t = inputs(2, config[0], config[2])
    weights = torch.randn(2, config[1], config[2], config[2], dtype=torch.float64)
    out, out_ref = ours(x, t), theirs(x, t).sample
    assert relative_error(out, out_ref) < 1e-9
    (out * weights).sum().backward()
    (out_ref * weights).sum().backward()
    for name, (p, others) in pairs.items():
        reference = torch.cat([q.grad for q in others])
        assert reference.abs().max() > 0
        assert relative_error(p.grad, reference) < 1e-9, name


def relative_error(actual, expected):
    return (actual - expected).abs().max() / expected.abs().max()


@pytest.mark.parametrize(("out_channels", "count"), [(3, 35_746_307), (6, 35_749_766)])
def test_cifar10_parameter_count_is_the_papers(out_channels, count):
    with torch.device("meta"):
        net = UNet(3, out_channels, 32)
    assert sum(p.numel() for p in net.parameters()) == count


def test_first_multiplier_may_differ_from_one():
    """As in the authors' code, the first convolution has `channels` features whatever the first multiplier."""
    net = randomise(tiny(multipliers=(2, 1)))
    assert net.down[0].enter.out_channels == 8
    assert net(*inputs(2, 2, 8, torch.float32)).shape == (2, 3, 8, 8)


# --- the parts ---------------------------------------------------------------------------------------------------


def test_sinusoidal_is_its_formula():
    t = torch.tensor([0.0, 1.0, 17.5, 1000.0], dtype=torch.float64)
    emb = Sinusoids(7).of(t, torch.float64)
    for i, omega in enumerate([1, 0.01, 0.0001]):  # odd width: the last is a zero
        assert_close(emb[:, i], torch.sin(omega * t), rtol=0, atol=1e-12)
        assert_close(emb[:, 3 + i], torch.cos(omega * t), rtol=0, atol=1e-12)
    assert (emb[:, 6] == 0).all()
    assert_close(Sinusoids(2).of(t, torch.float64), torch.stack([t.sin(), t.cos()], dim=1))


def test_sinusoidal_takes_integers_and_tells_times_apart_in_bfloat16():
    t = torch.arange(1, 4001)
    exact = Sinusoids(128).of(t, torch.float64)
    assert_close(Sinusoids(128).of(t, torch.float32).double(), exact, rtol=0, atol=4000 * 2**-23)
    assert_close(Sinusoids(128).of(t, torch.bfloat16).double(), exact, rtol=0, atol=2**-8)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_attention_equals_explicit_softmax(memory_format):
    layer = randomise(Attention(12, norm=Norm(3)).double())
    x = torch.randn(2, 12, 5, 4, dtype=torch.float64).contiguous(memory_format=memory_format)
    query, key, value = (
        torch.einsum("oc,bchw->bohw", w, layer.norm(x)) + b[:, None, None]
        for w, b in zip(layer.qkv.weight.chunk(3), layer.qkv.bias.chunk(3), strict=True)
    )
    scores = torch.einsum("bchw,bcij->bhwij", query, key) / math.sqrt(12)
    weights = scores.flatten(3).softmax(-1).reshape(scores.shape)
    mixed = torch.einsum("bhwij,bcij->bchw", weights, value)
    expected = x + torch.einsum("oc,bchw->bohw", layer.out.weight, mixed) + layer.out.bias[:, None, None]
    assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


def test_initial_output_is_zero_and_initial_weights_have_fan_avg_variance():
    net = tiny(channels=64, blocks=2)
    assert (net(*inputs(2, 2, 8, torch.float32)) == 0).all()
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert (module.bias == 0).all()
            ends_branch = name.endswith(("res.conv2", "attention.out", "up.1.leave.2"))
            for weight in module.weight.chunk(3 if name.endswith("qkv") else 1):  # each with its own fan
                fan_avg = weight[0, 0].numel() * (weight.shape[0] + weight.shape[1]) / 2
                expected = 0 if ends_branch else 1 / fan_avg
                assert weight.var().item() == pytest.approx(expected, rel=0.1), name


def test_state_dict_holds_parameters_only():
    net = tiny()
    assert set(net.state_dict()) == {name for name, _ in net.named_parameters()}


# --- memory format, dropout, dtype -------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_channels_last_changes_the_layout_and_not_the_numbers(training):
    net = randomise(tiny(out_channels=4).double()).train(training)
    x, t = inputs(3, 2, 8)
    expected = net(x, t)
    assert expected.is_contiguous()
    out = net.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last), t)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert not out.is_contiguous()
    assert_close(out, expected, rtol=1e-10, atol=1e-10)


def test_no_layer_leaves_channels_last():
    """One layer that silently returns to NCHW costs two copies, and the output would not show it."""
    net = randomise(tiny()).to(memory_format=torch.channels_last)
    x, t = inputs(3, 2, 8, torch.float32)
    stray = []

    def record(name):
        def hook(module, args, out):
            if torch.is_tensor(out) and out.ndim == 4 and not out.is_contiguous(memory_format=torch.channels_last):
                stray.append(name)

        return hook

    for name, module in net.named_modules():
        module.register_forward_hook(record(name))
    net(x.contiguous(memory_format=torch.channels_last), t)
    assert stray == []


def test_dropout_acts_in_training_only():
    net = randomise(tiny(dropout=0.5))
    x, t = inputs(2, 2, 8, torch.float32)
    assert not torch.equal(net.train()(x, t), net(x, t))
    assert torch.equal(net.eval()(x, t), net(x, t))
    dry = randomise(tiny(dropout=0.0))  # the same weights
    assert_close(net(x, t), dry(x, t))


def test_a_bfloat16_network_runs_and_is_close():
    x, t = inputs(2, 2, 8, torch.float32)
    net = randomise(tiny())
    expected = net(x, t)
    out = net.bfloat16()(x.bfloat16(), t)
    assert out.dtype == torch.bfloat16
    assert (out - expected).norm() / expected.norm() < 0.05


# --- configuration and errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", NETS, ids=lambda path: path.stem)
def test_every_net_yaml_builds_and_reads_x_and_t(path):
    config = OmegaConf.to_container(OmegaConf.load(path))
    module, name = config.pop("_target_").rsplit(".", 1)
    cls = getattr(importlib.import_module(module), name)
    size = 2 * max(config["attention"]) if "attention" in config else None
    net = randomise(cls(in_channels=2, out_channels=4, size=size, **config).eval())
    x, t = inputs(2, 2, size or 1, torch.float32)
    x = x if size else x[:, :, 0, 0]
    with torch.inference_mode():
        out = net(x, t)
        assert out.shape == (2, 4, *x.shape[2:])
        assert not torch.allclose(net(x, t + 1), out, rtol=1e-4)
        assert not torch.allclose(net(x + 0.1, t), out, rtol=1e-4)
        assert_close(net(x[:1], t[:1]), out[:1], rtol=1e-3, atol=1e-4)  # no sample reads another
