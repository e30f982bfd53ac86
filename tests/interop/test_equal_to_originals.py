"""Checkpoints of ddim, ddpm-torch, improved-diffusion and guided-diffusion: the network that comes in equals one written on
their names."""

import pytest
import torch
from brought import brought
from originals import DDIMNetwork, DDPMTorchNetwork, OpenAINetwork, listed

GUIDED = ["layout=guided_diffusion", "schedule=linear", "schedule.T=1000"]


def improved(weights):
    return OpenAINetwork(weights, heads=4)


def guided(weights):
    """Heads of 16 features at the widths of both attentions, 64."""
    return OpenAINetwork(weights, heads=4)


def guided_by_blocks(weights):
    return OpenAINetwork(weights, heads=4, by_head=False)


CASES = {
    "ddim": ("ddim", "ema_cifar10.ckpt", [], DDIMNetwork, 1000, 1.0),
    "ddpm_torch": ("ddpm_torch", "cifar10_2040.pt", [], DDPMTorchNetwork, 1000, 1.0),
    "improved_diffusion": ("openai", "cifar10_uncond_50M_500K.pt", [], improved, 4000, 0.25),
    "guided_diffusion": ("openai", "cifar10.pt", [*GUIDED, "net.head_width=16"], guided, 1000, 1.0),
    "guided_by_blocks": ("openai", "cifar10.pt", [*GUIDED, "net.head_width=16", "qkv=blocks"], guided_by_blocks, 1000, 1.0),
}


@pytest.mark.parametrize("case", CASES)
def test_output_equals_a_network_on_the_original_names(case, tmp_path):
    keys, file, words, network, T, scale = CASES[case]
    weights = listed(keys)
    torch.save(weights, tmp_path / file)
    run = brought(tmp_path, file, "size=32", "data=cifar10", *words)
    assert run.diffusion.schedule.T == T
    x, t = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64), torch.tensor([1, 613])
    with torch.no_grad():
        expected = network(weights)(x, (t - 1) * scale)
        ours32, ours = run.net(x.float(), t), run.net.double()(x, t)
    assert expected.std() > 0.1
    assert (ours - expected).abs().max() < 1e-11
    assert (ours32 - expected).abs().max() < 1e-4


def test_a_network_that_reads_a_second_image_is_refused(tmp_path, capsys):
    """Super-resolution of OpenAI's code: its six inputs and six outputs would pass for images of six channels."""
    weights = listed("openai") | {"input_blocks.0.0.weight": torch.ones(32, 6, 3, 3)}
    torch.save(weights, tmp_path / "cifar10_uncond_50M_500K.pt")
    with pytest.raises(SystemExit):
        brought(tmp_path, "cifar10_uncond_50M_500K.pt", "size=32")
    told = capsys.readouterr().err
    assert all(word in told for word in ("input_blocks.0.0.weight", "6", "1 or 3"))


def test_the_order_of_queries_keys_and_values_is_seen():
    """A second opinion that agreed with either order would prove nothing."""
    weights, x, t = listed("openai"), torch.randn(1, 3, 32, 32, dtype=torch.float64), torch.tensor([500])
    assert (guided(weights)(x, t) - guided_by_blocks(weights)(x, t)).abs().max() > 0.01
