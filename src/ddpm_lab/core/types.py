"""Shapes, once. `B` is the batch; `...` what one datum looks like: C H W for images, D for vectors."""

from jaxtyping import Float, Int
from torch import Tensor

Data = Float[Tensor, "B ..."]
"""States x_0, x_s, x_t, noise, network outputs."""
PerExample = Float[Tensor, " B"]
Times = Int[Tensor, " B"]
"""The paper's t: 1..T, and 0 for data."""
Coefficient = Float[Tensor, "..."]
"""Zero-dimensional for one step of a sampler, B 1 ... 1 for a batch of times."""
