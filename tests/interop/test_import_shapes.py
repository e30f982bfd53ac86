"""Weights of other shapes, from which the network would be read."""

from pathlib import Path

import pytest
import torch
from imports import network, weights

from ddpm_lab.errors import UserError
from ddpm_lab.interop.layout import read_weights
from ddpm_lab.interop.recognise import LAYOUTS, looked_at
from ddpm_lab.interop.source import Source
from ddpm_lab.nets.unet import UNet


def looked_through(layout: str, state: dict[str, torch.Tensor], place: Path) -> None:
    found = looked_at(LAYOUTS[layout], Source(place, {"given": state}, {}), "given", {"groups": 8, "heads": 1})
    attention = [8 // 2**i for i in found.net["attention"]]
    net = UNet(1, 1, 8, **found.net | {"attention": attention, "time_scale": 1.0})
    read_weights(LAYOUTS[layout], net, state, str(place))


@pytest.mark.parametrize("layout", ["ddim", "ddpm_torch", "improved_diffusion"])
def test_every_weight_of_another_shape_is_refused(layout, tmp_path):
    """Where the network is read from. A ValueError is of the network's parameters, which the command line checks."""
    whole = weights(layout, network(groups=8, head_width=None))
    looked_through(layout, whole, tmp_path)
    ends = LAYOUTS[layout].ends
    read_from = [ends.enter, ends.time[0], ends.leave]
    scanned = [key.removesuffix(".weight") for key in whole if key.endswith(("0.conv1.weight", "0.in_layers.2.weight"))]
    for key in (f"{layer}.weight" for layer in read_from + scanned[:2]):
        for other in (torch.tensor(0.5), torch.zeros(5), torch.zeros(0, 2), None):
            state = {name: value for name, value in whole.items() if name != key} | ({} if other is None else {key: other})
            with pytest.raises((UserError, ValueError)):
                looked_through(layout, state, tmp_path)
