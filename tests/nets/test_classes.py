"""Classes reach both networks as one more row of the embedding, and change nothing of networks without them."""

import pytest
import torch
from torch import nn

from ddpm_lab.nets.mlp import MLP
from ddpm_lab.nets.unet import UNet

CLASSES = 3
MADE = {
    "mlp": lambda **given: MLP(2, 2, None, width=8, blocks=2, **given),
    "unet": lambda **given: UNet(
        1, 1, 4, channels=8, multipliers=(1, 2), blocks=1, attention=(2,), groups=4, dropout=0.0, **given
    ),
}
SHAPE = {"mlp": (2,), "unet": (1, 4, 4)}


def seeded(kind: str, **given) -> nn.Module:
    torch.manual_seed(0)
    return MADE[kind](**given).double()


def trained(net: nn.Module) -> nn.Module:
    """No layer at zero, as the last ones are at first."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=g, dtype=p.dtype))
    return net


@pytest.mark.parametrize("kind", MADE)
def test_all_other_weights_begin_as_those_of_a_network_without_classes(kind):
    plain, conditional = (seeded(kind, **given).state_dict() for given in ({}, {"classes": CLASSES}))
    assert conditional.keys() - plain.keys() == {"classes.weight"}
    assert all(torch.equal(conditional[name], value) for name, value in plain.items())
    assert len(conditional["classes.weight"]) == CLASSES + 1


@pytest.mark.parametrize("kind", MADE)
def test_a_row_is_added_to_what_enters_the_last_layer_of_the_time_embedding(kind):
    net, plain = trained(seeded(kind, classes=CLASSES)), seeded(kind)
    plain.load_state_dict({name: value for name, value in net.state_dict().items() if name != "classes.weight"})
    x, t = torch.randn(CLASSES + 1, *SHAPE[kind], dtype=torch.float64), torch.arange(1, CLASSES + 2)
    labels = torch.tensor([2, 0, CLASSES, 1])
    out = net(x, t, labels)
    for i, label in enumerate(labels):
        with torch.no_grad():  # a row of the table is one more bias of the layer before
            plain.time[2].bias.copy_(net.time[2].bias + net.classes.weight[label])
        torch.testing.assert_close(out[i : i + 1], plain(x[i : i + 1], t[i : i + 1]), rtol=1e-10, atol=1e-10)
    assert not torch.allclose(out, net(x, t, labels.roll(1)))


@pytest.mark.parametrize("kind", MADE)
def test_labels_that_are_missing_or_not_taken_are_refused(kind):
    x, t, labels = torch.zeros(2, *SHAPE[kind], dtype=torch.float64), torch.tensor([1, 2]), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="labels=None"):
        seeded(kind, classes=CLASSES)(x, t)
    with pytest.raises(ValueError, match=r"labels=\(2,\)"):
        seeded(kind)(x, t, labels)
