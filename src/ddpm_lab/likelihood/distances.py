"""How far a network's estimate moves on the way from data to noise: what a schedule of constant rate is fitted to."""

from collections.abc import Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from ddpm_lab.core import rng
from ddpm_lab.core.diffusion import GaussianDiffusion, implied_eps, limited
from ddpm_lab.core.fitted import Quantity
from ddpm_lab.core.guidance import Network, of_rows
from ddpm_lab.core.transfer import like, to_device
from ddpm_lab.core.types import Data


@torch.inference_mode()
def distances(
    diffusion: GaussianDiffusion,
    net: Network,
    x0: Data,
    times: Sequence[int],
    quantity: Quantity,
    seed: int = 0,
    batch: int = 256,
) -> Float64[Tensor, " pairs"]:
    """√(E‖f(x_t) − f(x_s)‖²/d) for each two neighbours s < t of increasing `times`, f the network's x̂_0, clipped as in the
    bound, or its ε̂: over data and noise, x_s and x_t being of the same x_0 and the same ε. The noise of datum i depends on
    (seed, i) alone. `net` on the device of x0."""
    total = torch.zeros(len(times) - 1, dtype=torch.float64)
    for start, stop in ((start, min(start + batch, len(x0))) for start in range(0, len(x0), batch)):
        rows = slice(start, stop)
        part, given = x0[rows], of_rows(net, rows)
        eps, before = like(rng.normal(x0.shape[1:], seed, "errors", 0, start, stop), x0), None
        for i, t in enumerate(times):
            now = _estimate(diffusion, given, part, eps, torch.full((len(part),), t), quantity)
            if before is not None:
                total[i - 1] += float(((now - before) ** 2).flatten(1).mean(1).sum())
            before = now
    return (total / len(x0)).sqrt()


def _estimate(diffusion: GaussianDiffusion, net: Network, x0: Data, eps: Data, t: Tensor, quantity: Quantity) -> Data:
    """x̂_0 or ε̂ at times t (on the CPU), float64."""
    noised = diffusion.noised(x0, eps, t)
    out = diffusion.output(net, noised.xt, to_device(t, x0.device), noised.step)
    x0_hat = diffusion.seen(out, noised.xt, noised.step).x0
    if quantity == "eps":
        return implied_eps(x0_hat, noised.xt, noised.step.at_t).double()
    return limited(x0_hat, diffusion.clips_x0()).double()
