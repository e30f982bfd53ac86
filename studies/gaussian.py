"""What each reverse variance costs where everything is known: Gaussian data, the true denoiser, moments in float64.

Data are N(0, Q diag(λ) Qᵀ) in 64 dimensions with λ_k ∝ 1/k² of mean 0.25, Q a random rotation. Every rung is isotropic or a
function of the true covariance, so directions stay independent and no matrix is needed: with a rotation no diagonal variance
is the full covariance. `tests/core/test_covariance_gaussian.py` holds samplers and operators to these moments.

    python studies/gaussian.py
"""

import torch
from torch import Tensor

from ddpm_lab.core.path import Chain, NoiseSchedule, Step
from ddpm_lab.core.sampler import ddim_mean
from ddpm_lab.core.schedule import cosine, linear
from ddpm_lab.core.spacing import spaced_times

D = 64
SPECTRUM = 1 / torch.arange(1, D + 1, dtype=torch.float64) ** 2
SPECTRUM = 0.25 * SPECTRUM / SPECTRUM.mean()
RUNGS = ("beta", "beta_tilde", "interpolated", "analytic", "full", "ddim", "ddim_analytic", "ddim_full")


def conditional(step: Step) -> Tensor:
    """The eigenvalues of Cov(x_0 | x_t)."""
    ab = step.at_t.signal_scale**2
    return SPECTRUM * (1 - ab) / (ab * SPECTRUM + 1 - ab)


def transition(rung: str, step: Step) -> tuple[Tensor, Tensor]:
    """Gain and noise variance of x_s from x_t in every direction."""
    ab, zero = step.at_t.signal_scale**2, torch.zeros((), dtype=torch.float64)
    x0 = step.at_t.signal_scale * SPECTRUM / (ab * SPECTRUM + 1 - ab)
    mean = ddim_mean(step, zero) if rung.startswith("ddim") else step.posterior
    of_schedule = {"beta": step.log_beta, "interpolated": (step.log_beta + step.log_beta_tilde) / 2}
    own = zero if rung.startswith("ddim") else of_schedule[rung].exp() if rung in of_schedule else step.beta_tilde
    known = {"analytic": conditional(step).mean(), "full": conditional(step)}.get(rung.rpartition("_")[2], zero)
    return mean.x0_coef * x0 + mean.xt_coef, own + mean.x0_coef**2 * known


def distance(rung: str, chain: Chain, last: bool) -> float:
    """Squared Wasserstein distance of samples and data per dimension. `last`: with noise in the last step."""
    var = torch.ones(D, dtype=torch.float64)
    for step in chain.steps_down():
        gain, noise = transition(rung, step)
        var = gain**2 * var + (noise if step.s > 0 or last else 0)
    return float(((var.sqrt() - SPECTRUM.sqrt()) ** 2).mean())


def main() -> None:
    schedules: dict[str, NoiseSchedule] = {"linear": linear(1000), "cosine": cosine(1000)}
    for last in (False, True):
        print(f"\n{'With' if last else 'Without'} noise in the last step\n")
        columns = [(name, spacing, n) for name in schedules for spacing in ("trailing", "linspace") for n in (10, 50, 1000)]
        columns = [column for column in columns if column[1:] != ("linspace", 1000)]  # all times, as trailing has them
        print(f"| 10³ × | {' | '.join(f'{name} {spacing} {n}' for name, spacing, n in columns)} |")
        print(f"|---{'|---' * len(columns)}|")
        for rung in RUNGS:
            if last and rung in ("beta", "beta_tilde", "interpolated", "ddim"):  # their last step only decodes
                continue
            cells = []
            for name, spacing, n in columns:
                chain = schedules[name].chain(spaced_times(1000, n, spacing))
                cells.append(f"{1e3 * distance(rung, chain, last):.3g}")
            print(f"| {rung} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
