"""Which layout a file has, and what it holds as a network of ours."""

import re
from copy import copy
from typing import Any

from torch import Tensor

from ddpm_lab.errors import UserError
from ddpm_lab.interop.ddim import DDIMLayout
from ddpm_lab.interop.ddpm_torch import DDPMTorch
from ddpm_lab.interop.diffusers import Diffusers
from ddpm_lab.interop.layout import Found, Layout
from ddpm_lab.interop.openai import GuidedDiffusion, ImprovedDiffusion
from ddpm_lab.interop.source import Source

LAYOUTS: dict[str, Layout] = {
    layout.name: layout for layout in (Diffusers(), DDIMLayout(), DDPMTorch(), ImprovedDiffusion(), GuidedDiffusion())
}
FOREIGN = {
    "cross attention, as text-to-image networks have it": r"\.(attn2|transformer_blocks)\.",
    "EDM's or another network's": r"^(map_noise|map_layer0|enc\.|model\.map_layer)",
    "a network of latents": r"^(first_stage_model|model\.diffusion_model|cond_stage_model)\.",
}
"""What a name of a weight tells of networks that are often tried."""


def recognised(source: Source, kind: str, name: str | None) -> Layout:
    """The layout of the weights of a kind. Raises UserError for none."""
    weights = source.weights[kind]
    if name is not None:
        asked = LAYOUTS[name]
        alike = [layout for layout in LAYOUTS.values() if layout.ends == asked.ends]  # of OpenAI's two one recognises both
        if not any(layout.recognises(layout.current(weights)) for layout in alike):
            raise UserError(f"layout={name}: {source.path} has weights named {', '.join(sorted(weights)[:3])}, as it has none")
        return asked
    found = next((layout for layout in LAYOUTS.values() if layout.recognises(layout.current(weights))), None)
    if found is None:
        keys = sorted(weights)
        hint = next(
            (f" These are of {what}." for what, pattern in FOREIGN.items() if any(re.search(pattern, k) for k in keys)), ""
        )
        raise UserError(
            f"{source.path}: weights named {', '.join(keys[:3])} are of none of the layouts {', '.join(LAYOUTS)}.{hint} "
            "What can come in is a UNet of DDPM's design"
        )
    return found


def ordered(layout: Layout, qkv: str | None) -> Layout:
    """With queries before keys in each head, or all queries before all keys (guided-diffusion's use_new_attention_order); None
    is the layout's own. Raises UserError where they have one order alone."""
    if qkv is None:
        return layout
    if not layout.by_head:
        having = ", ".join(name for name, other in LAYOUTS.items() if other.by_head)
        raise UserError(f"qkv={qkv}: layout={layout.name} has one order; it is a choice of layout={having}")
    other = copy(layout)
    other.by_head = qkv == "heads"
    return other


def current_weights(layout: Layout, source: Source, kind: str) -> dict[str, Tensor]:
    return dict(layout.current(source.weights[kind]))


def looked_at(layout: Layout, source: Source, kind: str, typed: dict[str, Any]) -> Found:
    """What the file says, with what was typed of the network in its place."""
    found = layout.found(current_weights(layout, source, kind), source)
    if found.outputs not in (found.channels, 2 * found.channels):
        raise UserError(
            f"{source.path}: the network takes {found.channels} channels and gives {found.outputs}; allowed are as many, or "
            "twice as many with a learned variance (one that takes a condition as further channels cannot come in)"
        )
    found.net |= typed
    if "head_width" in typed and "heads" not in typed:
        found.net.pop("heads", None)
    return found
