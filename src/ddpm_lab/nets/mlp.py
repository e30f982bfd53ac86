"""A network for data that are vectors, such as points in the plane."""

from typing import Annotated

from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional as F

from ddpm_lab.domains import Given, HalfOpenUnit, Incompatible, PositiveInt, checked
from ddpm_lab.nets.embedding import Sinusoids, class_table, embedded


def zeroed(layer: nn.Linear) -> nn.Linear:
    """The layer that ends a branch starts at zero, as in the UNet, so the branch starts as the identity."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class PerceptronBlock(nn.Module):
    """x plus a two-layer perceptron of x; the time embedding shifts the hidden units."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, width)
        self.time = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.linear2 = zeroed(nn.Linear(width, width))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """[B, width], [B, width] -> [B, width]."""
        h = self.linear1(F.silu(self.norm1(x))) + self.time(emb)
        return x + self.linear2(self.dropout(F.silu(self.norm2(h))))


@checked
class MLP(nn.Module):
    """A residual perceptron for vectors, whose every block reads the time embedding, as in the UNet.

    `size` is the side of images: None for vectors, else raises Incompatible. `classes`: how many conditional data have; labels
    are then 0..classes, the last for none. The output is zero at initialisation.
    """

    def __init__(
        self,
        in_channels: Given[int],
        out_channels: Given[int],
        size: Given[int | None] = None,
        width: Annotated[int, Ge(2)] = 128,
        blocks: PositiveInt = 3,
        dropout: HalfOpenUnit = 0.0,
        *,
        classes: Given[int | None] = None,
    ) -> None:
        super().__init__()
        if size is not None:
            raise Incompatible(f"MLP takes vectors, and the data are images of {size}×{size}", "net", "data")
        self.width = width
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.enter = nn.Linear(in_channels, width)
        self.blocks = nn.ModuleList(PerceptronBlock(width, dropout) for _ in range(blocks))
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.SiLU(), zeroed(nn.Linear(width, out_channels)))
        self.classes = class_table(classes, width)

    @property
    def ends(self) -> tuple[nn.Module, ...]:
        """The layer that takes the data, and the one that gives the output."""
        return self.enter, self.leave[-1]

    def features(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """What `forward` takes -> [B, width]: what the output is made of."""
        emb = embedded(self.time, self.classes, Sinusoids(self.width).of(t, x.dtype), labels)
        h = self.enter(x)
        for block in self.blocks:
            h = block(h, emb)
        return h

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """x_t [B, in_channels], the paper's t in 1..T, [B], labels [B] of a network with classes -> out [B, out_channels]."""
        return self.leave(self.features(x, t, labels))
