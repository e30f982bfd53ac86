"""The contract of a layout: how another code base names and stores the weights of a UNet of DDPM's design."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ddpm_lab.errors import UserError
from ddpm_lab.interop.source import Source
from ddpm_lab.nets.blocks import Attention
from ddpm_lab.nets.unet import Level, UNet

Weights = Mapping[str, Tensor]
BY_LENGTH = "1000/T"
"""A value of net.time_scale that is computed where T is known."""


@dataclass
class Found:
    """What a file says of its network and of how it was trained."""

    net: dict[str, Any]
    """Parameters of `UNet`, but for those that the data give. `attention` holds levels, 0 the largest."""
    channels: int
    outputs: int
    size: int | None = None
    """The side of images, where the file says it."""
    words: dict[str, object] = field(default_factory=dict)
    """Of the other groups: values by the key by which they are typed, as "schedule.T"."""
    assumed: dict[str, str] = field(default_factory=dict)
    """Keys of which the file does not say the value, as "schedule.T" or "net.heads", each with the reason for it."""
    asked: dict[tuple[str, ...], str] = field(default_factory=dict)
    """What has to be typed: keys, one of which is enough, with an example."""
    notes: list[str] = field(default_factory=list)
    """What else is said of it, in lines."""

    def assume(self, values: Mapping[str, object], reason: str) -> None:
        """Values by key which the file does not say. The reason follows "net.heads=4, "."""
        self.assumed |= dict.fromkeys(values, reason)
        for key, value in values.items():
            if key.startswith("net."):
                self.net[key.removeprefix("net.")] = value
            else:
                self.words[key] = value


class Block(NamedTuple):
    """Where a residual block and its attention lie."""

    res: str
    attention: str = ""


class Ends(NamedTuple):
    """The layers at both ends, and those of time and class."""

    enter: str
    time: tuple[str, str]
    norm: str
    leave: str
    classes: str


class Layout(ABC):
    name: str
    """As it is typed."""
    ends: Ends
    res: ClassVar[dict[str, str]]
    """Our layer in a residual block, and theirs."""
    attention: ClassVar[dict[str, tuple[str, ...]]]
    """The same of an attention: of its norm, of query, key and value (one or three), and of its output."""
    middle: tuple[Block, Block]
    kernel_dims: int = 0
    """How many dimensions of size 1 the weights of an attention end in: 1 and 2 where they are convolutions."""
    by_head: bool = False
    """Whether query, key and value of a head lie together, rather than all queries before all keys."""

    @abstractmethod
    def recognises(self, weights: Weights) -> bool:
        """By the names of the weights."""

    @abstractmethod
    def found(self, weights: Weights, source: Source) -> Found:
        """Raises UserError for what no UNet of ours can be, by its name."""

    @abstractmethod
    def down(self, levels: Sequence[Level], i: int, j: int) -> Block:
        """Block j of level i, 0 the largest, on the way down."""

    @abstractmethod
    def up(self, levels: Sequence[Level], i: int, j: int) -> Block:
        """The same on the way up."""

    @abstractmethod
    def downsample(self, levels: Sequence[Level], i: int) -> str:
        """The strided convolution that enters level i from the larger one, i > 0."""

    @abstractmethod
    def upsample(self, levels: Sequence[Level], i: int) -> str:
        """The convolution of the doubled features that leave level i for the larger one, i > 0."""

    def current(self, weights: Weights) -> Weights:
        """With the names that this code base uses now."""
        return weights

    def layers(self, levels: Sequence[Level]) -> dict[str, tuple[str, ...]]:
        """Our layer -> theirs, three for query, key and value where they are apart."""
        ends, last = self.ends, len(levels) - 1
        names = {"down.0.enter": (ends.enter,), f"up.{last}.leave.0": (ends.norm,), f"up.{last}.leave.2": (ends.leave,)}
        names |= {"time.0": (ends.time[0],), "time.2": (ends.time[1],), "classes": (ends.classes,)}
        for i, level in enumerate(levels):
            for j in range(level.blocks):
                names |= self._block(f"down.{i}.blocks.{j}", self.down(levels, i, j))
            for j in range(level.blocks + 1):
                names |= self._block(f"up.{last - i}.blocks.{j}", self.up(levels, i, j))
            if i > 0:
                names[f"down.{i}.enter.conv"] = (self.downsample(levels, i),)
                names[f"up.{last - i}.leave.conv"] = (self.upsample(levels, i),)
        return names | self._block("middle.0", self.middle[0]) | self._block("middle.1", self.middle[1])

    def _block(self, ours: str, block: Block) -> dict[str, tuple[str, ...]]:
        names: dict[str, tuple[str, ...]] = {f"{ours}.res.{k}": (f"{block.res}.{other}",) for k, other in self.res.items()}
        if block.attention:
            of_attention = {k: tuple(f"{block.attention}.{other}" for other in others) for k, others in self.attention.items()}
            names |= {f"{ours}.attention.{k}": others for k, others in of_attention.items()}
        return names

    def read(self, values: Sequence[Tensor], heads: int | None) -> Tensor:
        """A weight or bias of ours. `heads`: of query, key and value."""
        value = torch.cat([*values]) if len(values) > 1 else values[0]
        if heads is not None and self.by_head:
            value = value.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)
        return value

    def write(self, value: Tensor, parts: int, heads: int | None) -> Sequence[Tensor]:
        """The same the other way, as `parts` tensors."""
        if heads is not None and self.by_head:
            value = value.unflatten(0, (3, heads, -1)).transpose(0, 1).flatten(0, 2)
        return value.chunk(parts)


def read_weights(layout: Layout, net: UNet, weights: Weights, source: str) -> dict[str, Tensor]:
    """The state of `net` in float32, in the memory of `weights` where it can be. Raises UserError that names the first weight
    that is missing, superfluous or of another shape."""
    layers, result, left = layout.layers(net.levels), {}, dict(weights)
    for name, like in net.state_dict().items():
        layer, _, kind = name.rpartition(".")
        keys = [f"{other}.{kind}" for other in layers[layer]]
        if missing := [key for key in keys if key not in left]:
            raise UserError(f"{source}: {missing[0]} is missing, which a network of layout={layout.name} has here")
        values = [left.pop(key) for key in keys]
        for key, value in zip(keys, values, strict=True):
            if not value.is_floating_point() or not value.float().isfinite().all():
                raise UserError(f"{source}: {key} holds {_unusual(value)}, which are no weights")
        try:
            whole = layout.read([value.float() for value in values], _heads(net, layer))
        except (RuntimeError, IndexError):  # as of tensors that do not go together
            whole = torch.empty(0)
        if ".attention." in layer and kind == "weight" and whole.ndim == like.ndim + layout.kernel_dims:
            whole = whole.flatten(like.ndim - 1)
        if whole.shape != like.shape:
            shapes = ", ".join(str(tuple(value.shape)) for value in values)
            raise UserError(f"{source}: {keys[0]} is {shapes}; the network around it needs {tuple(like.shape)}")
        alone = whole.is_contiguous() and whole.untyped_storage().nbytes() == whole.nbytes  # else more would be saved with it
        result[name] = whole if alone else whole.clone(memory_format=torch.contiguous_format)
    if left:
        raise UserError(f"{source}: {_named(sorted(left))}: a UNet of DDPM's design has no place for this")
    return result


def write_weights(layout: Layout, net: UNet) -> dict[str, Tensor]:
    """The weights of `net` as the layout has them: `read_weights` gives them back, bit for bit."""
    layers, result = layout.layers(net.levels), {}
    for name, value in net.state_dict().items():
        layer, _, kind = name.rpartition(".")
        others = layers[layer]
        for other, part in zip(others, layout.write(value, len(others), _heads(net, layer)), strict=True):
            dims = layout.kernel_dims if ".attention." in layer and kind == "weight" and part.ndim == 2 else 0
            result[f"{other}.{kind}"] = part.reshape(*part.shape, *[1] * dims).contiguous().clone()
    return result


def _heads(net: UNet, layer: str) -> int | None:
    """Of the attention whose query, key and value a layer makes."""
    if not layer.endswith(".attention.qkv"):
        return None
    attention = net.get_submodule(layer.rpartition(".")[0])
    assert isinstance(attention, Attention)
    return attention.heads


def _unusual(value: Tensor) -> str:
    return "NaN or infinity" if value.is_floating_point() else f"values of {value.dtype}"


def _named(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return f"{', '.join(keys[:3])}{more}"


def shape_of(weights: Weights, key: str, source: str, dims: int = 1) -> tuple[int, ...]:
    """Raises UserError where it is missing, or has fewer dimensions."""
    if key not in weights:
        raise UserError(f"{source}: {key} is missing")
    if weights[key].ndim < dims:
        raise UserError(f"{source}: {key} is {tuple(weights[key].shape)}; allowed are {dims} dimensions")
    return tuple(weights[key].shape)


def multipliers_of(widths: Sequence[int], channels: int, source: str) -> list[int]:
    """Raises UserError for widths that are no multiples."""
    if not channels or any(width % channels or not width for width in widths):
        raise UserError(
            f"{source}: levels of {', '.join(map(str, widths))} features, and the first layer has {channels}: each "
            "must be a multiple of that"
        )
    return [width // channels for width in widths]


def blocks_of(counts: Sequence[int]) -> int | list[int]:
    """One number where all levels have as many."""
    return counts[0] if len(set(counts)) == 1 else list(counts)
