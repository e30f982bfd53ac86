"""Options of the UNet: what checkpoints of other code differ in, by identities, and what is refused.

That they equal diffusers' is shown in tests/interop/.
"""

import math

import pytest
import torch
from test_unet import inputs, randomise, tiny
from torch.nn import functional as F
from torch.testing import assert_close

from ddpm_lab.domains import Incompatible
from ddpm_lab.nets.blocks import Attention, Downsample
from ddpm_lab.nets.embedding import Sinusoids


def pair(first, second):
    """Two networks in float64 with the same weights."""
    return randomise(tiny(**first).double()), randomise(tiny(**second).double())


@pytest.mark.parametrize(
    "change",
    [{"time_offset": -1.0}, {"time_order": "cos_sin"}, {"time_shift": 0.0}, {"head_width": 4}, {"norm_eps": 1e-3},
     {"down_padding": "around"}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_an_option_changes_the_output(change):
    """Of the same weights."""
    plain, changed = pair({}, change)
    x, t = inputs(2, 2, 8)
    assert (plain(x, t) - changed(x, t)).abs().max() > 1e-4


def test_an_offset_is_another_time():
    plain, changed = pair({"time_scale": 0.25}, {"time_scale": 0.25, "time_offset": -1.0})
    x, t = inputs(2, 2, 8)
    assert torch.equal(changed(x, t), plain(x, t - 1))


def test_the_order_of_time_features_is_that_of_the_columns_that_read_them():
    plain, changed = pair({}, {"time_order": "cos_sin"})
    sines, cosines = plain.time[0].weight.data.chunk(2, dim=1)
    changed.time[0].weight.data = torch.cat([cosines, sines], dim=1)
    x, t = inputs(2, 2, 8)
    assert_close(changed(x, t), plain(x, t), rtol=1e-12, atol=1e-12)


def test_without_a_shift_frequencies_are_those_of_vaswani():
    """ω_i = 10000^(−2i/width), §3.5 of Vaswani et al. 2017; cosines first, as OpenAI's code has them."""
    t = torch.tensor([0.0, 1.0, 999.0], dtype=torch.float64)
    features = Sinusoids(6, order="cos_sin", shift=0.0).of(t, torch.float64)
    for i in range(3):
        phase = t * 10_000 ** (-2 * i / 6)
        assert_close(features[:, i], phase.cos(), rtol=0, atol=1e-12)
        assert_close(features[:, 3 + i], phase.sin(), rtol=0, atol=1e-12)


def test_the_width_of_the_time_embedding_is_read_by_every_block():
    net = randomise(tiny(time_width=6))
    assert {module.time.in_features for module in net.modules() if hasattr(module, "conv1")} == {6}
    assert [net.time[0].in_features, net.time[0].out_features, net.time[2].out_features] == [8, 6, 6]
    x, t = inputs(2, 2, 8, torch.float32)
    assert not torch.allclose(net(x, t), net(x, t + 1), rtol=1e-4)


def test_the_width_of_heads_is_as_many_heads_as_fit():
    plain, changed = pair({"multipliers": (1, 1), "heads": 2}, {"multipliers": (1, 1), "head_width": 4})
    x, t = inputs(2, 2, 8)
    assert torch.equal(changed(x, t), plain(x, t))
    net = tiny(attention=(8, 4), head_width=4)
    heads = {module.qkv.in_features: module.heads for module in net.modules() if isinstance(module, Attention)}
    assert heads == {8: 2, 16: 4}


@pytest.mark.parametrize(("padding", "first"), [("around", 0), ("after", 1)])
def test_a_strided_convolution_is_every_other_output_of_a_plain_one(padding, first):
    """Its first output is that at the first pixel, or at the second."""
    layer, x = randomise(Downsample(3, padding).double()), inputs(2, 3, 8)[0]
    plain = F.conv2d(x, layer.conv.weight, layer.conv.bias, padding=1)
    assert_close(layer(x), plain[..., first::2, first::2], rtol=1e-12, atol=1e-12)


def test_blocks_by_level():
    plain, changed = pair({"blocks": 2}, {"blocks": (2, 2)})
    x, t = inputs(2, 2, 8)
    assert torch.equal(changed(x, t), plain(x, t))
    net = randomise(tiny(blocks=(1, 3)))
    assert [len(stage.blocks) for stage in net.down] == [1, 3]
    assert [len(stage.blocks) for stage in net.up] == [4, 2]  # the smallest first
    net(x.float(), t).square().sum().backward()
    of_keys = {name for name, p in net.named_parameters() if name.endswith("qkv.bias")}  # a key's bias has no effect
    assert {name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()} <= of_keys


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("blocks", (1,)),
        ("blocks", (1, 0)),
        ("head_width", 3),
        ("head_width", 0),
        ("time_order", "cos"),
        ("time_shift", 2.0),
        ("time_shift", -0.5),
        ("time_width", 0),
        ("time_offset", math.nan),
        ("norm_eps", 0.0),
        ("down_padding", "before"),
    ],
)
def test_what_no_network_has_is_refused_by_its_name(key, value):
    with pytest.raises(ValueError) as error:
        tiny(**{key: value})
    assert key in str(error.value)


def test_heads_are_said_once():
    with pytest.raises(ValueError) as error:
        tiny(heads=2, head_width=4)
    assert all(word in str(error.value) for word in ("heads=2", "head_width=4"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"groups": 3}, ["groups=3", "8", "channels=8", "groups=1", "channels=9"]),
        ({"channels": 12, "groups": 8}, ["groups=8", "12", "groups=4", "channels=16"]),
        ({"heads": 3}, ["heads=3", "8", "heads=1"]),
    ],
)
def test_widths_that_do_not_divide_are_refused(changes, words):
    with pytest.raises(ValueError) as error:
        tiny(**changes)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": 6, "multipliers": (1, 1, 1)}, ["multipliers=[1, 1, 1]", "size=6", "multiple of 4"]),
        ({"attention": (4, 16)}, ["attention=[4, 16]", "size=8", "16", "[8, 4]"]),
        ({"size": None}, ["images", "vectors"]),
    ],
)
def test_data_that_do_not_pass_through_are_refused(changes, words):
    with pytest.raises(Incompatible) as error:
        tiny(**changes)
    assert error.value.arguments == ("net", "data")
    assert all(word in str(error.value) for word in words), error.value
