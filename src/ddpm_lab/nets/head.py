"""A small network on the features of another: its output is as large as the data, and zero at initialisation."""

from itertools import pairwise

from torch import Tensor, nn

from ddpm_lab.domains import Given, PositiveInt, checked


@checked
class Head(nn.Module):
    """`layers` hidden layers of `width` units after a normalisation: 3×3 convolutions on the features of images, where
    normalisation is over all of one image, else linear layers."""

    def __init__(
        self,
        in_channels: Given[int],
        out_channels: Given[int],
        images: Given[bool],
        width: PositiveInt = 64,
        layers: PositiveInt = 2,
    ) -> None:
        super().__init__()

        def layer(inputs: int, outputs: int) -> nn.Module:
            return nn.Conv2d(inputs, outputs, 3, padding=1) if images else nn.Linear(inputs, outputs)

        widths = [in_channels, *layers * [width]]
        hidden = [part for pair in pairwise(widths) for part in (layer(*pair), nn.SiLU())]
        last = layer(width, out_channels)
        for weight in last.parameters():
            nn.init.zeros_(weight)
        self.layers = nn.Sequential(nn.GroupNorm(1, in_channels), *hidden, last)

    @property
    def ends(self) -> tuple[nn.Module, ...]:
        """The layer that takes the features, and the one that gives the output."""
        return self.layers[1], self.layers[-1]

    def forward(self, features: Tensor) -> Tensor:
        """[B, in_channels, H, W] -> [B, out_channels, H, W], or [B, in_channels] -> [B, out_channels]."""
        # torch 2.11 crashes in the backward pass of a GroupNorm whose input is channels_last and needs no gradient
        return self.layers(features.contiguous())
