"""The UNet of Ho et al. 2020 (DDPM), Appendix B: residual blocks, self-attention at chosen sizes, skips by concatenation."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, NamedTuple, cast

from annotated_types import Ge, MinLen
from torch import Tensor, nn

from ddpm_lab.domains import ClosedUnit, Given, HalfOpenUnit, Incompatible, PositiveFloat, PositiveInt, checked, shown
from ddpm_lab.nets.blocks import (
    Block,
    DownPadding,
    Downsample,
    DownStage,
    Norm,
    Upsample,
    UpStage,
    conv3x3,
    head,
    time_layers,
)
from ddpm_lab.nets.embedding import Sinusoids, TimeOrder, class_table, embedded


@checked
class UNet(nn.Module):
    """DDPM Appendix B: predicts from x_t and t; the defaults are the CIFAR-10 network, 35.7 million parameters.

    `in_channels`, `out_channels`, `size` (the image side) and `classes` (how many conditional data have) come from the data and
    the variance. Labels are 0..classes, the last for none. The parameters after `time_scale` are what checkpoints of other code
    differ in. Raises ValueError for widths that `groups` or heads do not divide, Incompatible for images that do not halve or
    never have a size of `attention`. The output is zero at initialisation.
    """

    def __init__(
        self,
        in_channels: Given[int],
        out_channels: Given[int],
        size: Given[int | None],
        channels: Annotated[int, Ge(2)] = 128,
        multipliers: Annotated[tuple[PositiveInt, ...], MinLen(1)] = (1, 2, 2, 2),
        blocks: PositiveInt | tuple[PositiveInt, ...] = 2,
        attention: tuple[PositiveInt, ...] = (16,),
        groups: PositiveInt = 32,
        dropout: HalfOpenUnit = 0.1,
        heads: PositiveInt = 1,
        scale_shift: bool = False,
        time_scale: PositiveFloat = 1.0,
        time_offset: float = 0.0,
        time_order: TimeOrder = "sin_cos",
        time_shift: ClosedUnit = 1.0,
        time_width: PositiveInt | None = None,
        head_width: PositiveInt | None = None,
        norm_eps: PositiveFloat = 1e-6,
        down_padding: DownPadding = "after",
        *,
        classes: Given[int | None] = None,
    ) -> None:
        super().__init__()
        emb, norm = time_width or 4 * channels, Norm(groups, norm_eps)
        block = partial(Block, emb=emb, norm=norm, dropout=dropout, scale_shift=scale_shift)
        self.levels = levels = check_levels(size, channels, multipliers, blocks, attention, groups, heads, head_width)
        ends = conv3x3(in_channels, channels), partial(head, outputs=out_channels, norm=norm)
        down, up = stages(levels, channels, block, down_padding, *ends)
        self.sinusoids = Sinusoids(channels, time_scale, time_offset, time_order, time_shift)
        self.time = time_layers(channels, emb)
        self.down = nn.ModuleList(down)
        self.middle = nn.ModuleList([levels[-1].middle(block, attends) for attends in (True, False)])
        self.up = nn.ModuleList(reversed(up))
        self.classes = class_table(classes, emb)

    @property
    def ends(self) -> tuple[nn.Module, ...]:
        """The layer that takes the data, and the one that gives the output."""
        last = cast(nn.Sequential, cast(UpStage, self.up[-1]).leave)[-1]
        return cast(DownStage, self.down[0]).enter, last

    def features(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """What `forward` takes -> [B, width of the largest size, H, W]: what the output is made of."""
        emb = embedded(self.time, self.classes, self.sinusoids.of(t, x.dtype), labels)
        h, states = x, []
        for stage in self.down:
            states.append(stage(h, emb))
            h = states[-1][-1]
        for block in self.middle:
            h = block(h, emb)
        *below, largest = self.up
        for stage in below:
            h = stage(h, states.pop(), emb)
        return cast(UpStage, largest).features(h, states.pop(), emb)

    def leave(self, features: Tensor) -> Tensor:
        """-> out [B, out_channels, H, W]."""
        return cast(UpStage, self.up[-1]).leave(features)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """x_t [B, in_channels, H, W], the paper's t in 1..T, [B], labels [B] of a network with classes
        -> out [B, out_channels, H, W]."""
        return self.leave(self.features(x, t, labels))


class Level(NamedTuple):
    """One resolution: the side of its images, and its blocks on the way down."""

    side: int
    width: int
    blocks: int
    attends: bool
    heads: int

    def middle(self, block: Callable[..., Block], attends: bool) -> Block:
        """Of the lowest level: a block between the ways down and up."""
        return block(self.width, self.width, attends=attends, heads=self.heads)


def stages(
    levels: Sequence[Level],
    channels: int,
    block: Callable[..., Block],
    down_padding: DownPadding,
    enter: nn.Module,
    leave: Callable[[int], nn.Module],
) -> tuple[list[DownStage], list[UpStage]]:
    """The ways down and up, both from the largest size on. `enter` makes `channels` features, `leave` a layer that ends."""
    widths = [level.width for level in levels]
    entries = [channels, *widths[:-1]]  # features that enter each size, and are its first skip
    below = [*widths[1:], widths[-1]]  # features that come up to it, the lowest from the middle
    down, up = [], []
    for i, level in enumerate(levels):
        make = partial(block, outputs=level.width, attends=level.attends, heads=level.heads)
        same = level.blocks * [level.width]
        inputs = zip([below[i], *same], [*same, entries[i]], strict=True)  # features from below, and the skip
        entering = Downsample(entries[i], down_padding) if i > 0 else enter
        leaving = Upsample(level.width) if i > 0 else leave(level.width)
        down.append(DownStage(entering, [make(n) for n in [entries[i], *same[1:]]]))
        up.append(UpStage([make(n + skip) for n, skip in inputs], leaving))
    return down, up


def check_levels(
    size: int | None,
    channels: int,
    multipliers: Sequence[int],
    blocks: int | Sequence[int],
    attention: Sequence[int],
    groups: int,
    heads: int,
    head_width: int | None,
) -> list[Level]:
    """The resolutions, the largest first. Raises ValueError and Incompatible."""
    widths = check_widths(channels, multipliers, groups)
    sides = check_sides(size, multipliers, attention)
    counts = [blocks] * len(widths) if isinstance(blocks, int) else list(blocks)
    if len(counts) != len(widths):
        raise ValueError(f"blocks={shown(counts)}: allowed is a number, or a list of {len(widths)}, as many as multipliers")
    return [
        Level(side, width, n, side in attention, check_heads(width, heads, head_width))
        for side, width, n in zip(sides, widths, counts, strict=True)
    ]


def check_heads(width: int, heads: int, head_width: int | None) -> int:
    """The heads of attention at a width, which may attend and is a multiple of them. Raises ValueError."""
    if head_width is not None and heads != 1:
        raise ValueError(f"heads={heads} and head_width={head_width} both say how many heads there are: leave one out")
    if width % heads:
        raise ValueError(f"heads={heads} does not divide the width {width}; use heads={math.gcd(heads, width)}")
    if head_width is not None and width % head_width:
        raise ValueError(f"head_width={head_width} does not divide the width {width}; use {math.gcd(head_width, width)}")
    return heads if head_width is None else width // head_width


def check_widths(channels: int, multipliers: Sequence[int], groups: int) -> list[int]:
    """The width at each resolution. Each is a multiple of `groups`, and so is then every sum of two, which is what the way up
    normalises. Raises ValueError."""
    widths = [channels * m for m in multipliers]
    for width in (channels, *widths):
        if width % groups:
            raise ValueError(
                f"groups={groups} does not divide the width {width} that channels={channels} multipliers={shown(multipliers)} "
                f"give; use groups={math.gcd(groups, channels, *widths)} or channels={math.ceil(channels / groups) * groups}"
            )
    return widths


def check_sides(size: int | None, multipliers: Sequence[int], attention: Sequence[int]) -> list[int]:
    """The image side at each resolution; it halves exactly, and every side in `attention` occurs. Raises Incompatible."""
    if size is None:
        raise Incompatible("UNet takes images, and the data are vectors", "net", "data")
    sides = [size // 2**i for i in range(len(multipliers))]
    if size % 2 ** (len(multipliers) - 1):
        raise Incompatible(
            f"multipliers={shown(multipliers)} halves images {len(multipliers) - 1} times, and those of size={size} cannot be: "
            f"size must be a multiple of {2 ** (len(multipliers) - 1)}",
            "net",
            "data",
        )
    if missing := [side for side in attention if side not in sides]:
        raise Incompatible(
            f"attention={shown(attention)}: images of size={size} never have the size {missing[0]}; allowed are the sizes "
            f"{shown(sides)} that they pass through",
            "net",
            "data",
        )
    return sides
