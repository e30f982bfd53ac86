"""What the weights themselves say of a network, where no file of settings lies beside them."""

from collections.abc import Sequence
from typing import NamedTuple

from ddpm_lab.interop.layout import Found, Layout, Weights, blocks_of, multipliers_of, shape_of


class Scanned(NamedTuple):
    """One level on the way down: its features, blocks, and whether they attend."""

    width: int
    blocks: int
    attends: bool


def measured(layout: Layout, weights: Weights, levels: Sequence[Scanned], first: str, source: str) -> Found:
    """`first`: the first residual block on the way down."""
    ends = layout.ends
    channels, inputs = shape_of(weights, f"{ends.enter}.weight", source, dims=4)[:2]
    time_width = shape_of(weights, f"{ends.time[0]}.weight", source)[0]
    outputs = shape_of(weights, f"{ends.leave}.weight", source)[0]
    shift = shape_of(weights, f"{first}.{layout.res['time']}.weight", source)[0]
    net = {
        "channels": channels,
        "multipliers": multipliers_of([level.width for level in levels], channels, source),
        "blocks": blocks_of([level.blocks for level in levels]),
        "attention": [i for i, level in enumerate(levels) if level.attends],
        "scale_shift": shift == 2 * levels[0].width,
        "time_width": None if time_width == 4 * channels else time_width,
    }
    found = Found(net, inputs, outputs)
    found.assume({"net.dropout": 0.0}, "which the file does not say; it plays no part in samples and bounds")
    return found


def of_ho(found: Found, reason: str, of_variance: str, variance: str = "beta") -> Found:
    """With what two codes took over from Ho et al.'s."""
    found.net |= {"time_offset": -1.0, "groups": 32}
    found.assume({"schedule": "linear", "schedule.T": 1000, "schedule.beta_start": 1e-4, "schedule.beta_end": 0.02}, reason)
    found.assume({"prediction": "eps", "loss": "simple"}, reason)
    found.assume({"variance": variance}, of_variance)
    return found
