"""The papers' formulas once more, from β tables, one example at a time. Nothing is imported from the package.

Lists are indexed by the paper's t; entry 0 of `beta` is unused. Written from Ho et al. 2020, Nichol & Dhariwal 2021,
Salimans & Ho 2022 and Karras et al. 2022 before the package's bodies were read, and kept in their notation on purpose: it is a
second opinion.
"""

import math

import torch
from torch import Tensor

from .edm_reference import c_out, edm_lambda, preconditioning
from .grey_reference import discretised_log_likelihood

LN2 = math.log(2.0)


def linear_betas(T: int, first: float = 1e-4, last: float = 0.02) -> list[float]:
    return [first + (last - first) * i / (T - 1) for i in range(T)]


def cosine_betas(T: int, s: float = 0.008, cap: float = 0.999) -> list[float]:
    def f(t: int) -> float:
        return math.cos((t / T + s) / (1 + s) * math.pi / 2) ** 2

    return [min(1 - f(t) / f(t - 1), cap) for t in range(1, T + 1)]


def quadratic_betas(T: int, first: float = 1e-4, last: float = 0.02) -> list[float]:
    return [root**2 for root in linear_betas(T, math.sqrt(first), math.sqrt(last))]


def constant_betas(T: int) -> list[float]:
    return [0.02] * T


def warmup_betas(T: int, fraction: float) -> list[float]:
    n = int(T * fraction)
    return [1e-4 + (0.02 - 1e-4) * i / max(n - 1, 1) for i in range(n)] + [0.02] * (T - n)


def jsd_betas(T: int) -> list[float]:
    return [1.0 / (T - t + 1) for t in range(1, T + 1)]


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


def sigmoid_beta_betas(T: int) -> list[float]:
    return [1e-4 + (0.02 - 1e-4) * sigmoid(x) for x in linear_betas(T, -6.0, 6.0)]


def sigmoid_alpha_bar_betas(T: int, start: float = -3.0, end: float = 3.0, tau: float = 1.0) -> list[float]:
    def abar(t: int) -> float:
        u = t / T * (end - start) + start
        return (sigmoid(end / tau) - sigmoid(u / tau)) / (sigmoid(end / tau) - sigmoid(start / tau))

    return [min(1.0 - abar(t) / abar(t - 1), 0.999) for t in range(1, T + 1)]


def zero_terminal_snr_betas(T: int) -> list[float]:
    """Lin et al. 2024, Algorithm 1, over the linear schedule."""
    root = [math.sqrt(abar) for abar in Tables(linear_betas(T)).abar[1:]]
    moved = [(r - root[-1]) * root[0] / (root[0] - root[-1]) for r in root]
    abar = [1.0] + [r**2 for r in moved]
    return [1.0 - abar[t] / abar[t - 1] for t in range(1, T + 1)]


def gamma_at_first(u: float, first: float, last: float, n: int = 64) -> float:
    """The monotone network before training: half a line, half n logistic bumps of slope n, evenly spread."""

    def f(x: float) -> float:
        return 0.5 * x + sum(0.5 / n * sigmoid(n * (x - (j + 0.5) / n)) for j in range(n))

    return first + (last - first) * (0.01 * u + 0.99 * (f(u) - f(0.0)) / (f(1.0) - f(0.0)))


def learned_betas(T: int) -> list[float]:
    abar = [1.0] + [sigmoid(-gamma_at_first(i / (T - 1), -13.3, 5.0)) for i in range(T)]
    return [1.0 - abar[t] / abar[t - 1] for t in range(1, T + 1)]


def betas_of_log_snr(log_snr: list[float]) -> list[float]:
    """At t = 1..T; ᾱ = 1/(1 + e^−λ)."""
    abar = [1.0] + [sigmoid(x) for x in log_snr]
    return [1.0 - abar[t] / abar[t - 1] for t in range(1, len(abar))]


def shifted_cosine_betas(T: int, shift: float = 2.0 * math.log(32 / 64), ends: float = 15.0) -> list[float]:
    """Hoogeboom et al. 2023, appendix A: an angle that rises evenly between those of log SNR = 15 and −15, shifted."""
    first, last = math.atan(math.exp(-ends / 2)), math.atan(math.exp(ends / 2))
    return betas_of_log_snr([-2.0 * math.log(math.tan(first + (last - first) * t / T)) + shift for t in range(1, T + 1)])


VARIANCE = 0.25


def tangent_betas(T: int, last: float = 10.0) -> list[float]:
    """Data of one variance λ: σ/α = √λ tan θ, and θ is a multiple of 1/T up to where σ²/α² = e^10."""
    angle = math.atan(math.exp(last / 2) / math.sqrt(VARIANCE))
    sigma = [math.sqrt(VARIANCE) * math.tan(angle * t / T) for t in range(1, T + 1)]
    return betas_of_log_snr([-2.0 * math.log(s) for s in sigma])


LOG_SNR, DISTANCES = [6.0, 2.0, -1.0, -8.0], [0.2, 0.5, 0.1]


def constant_rate_betas(T: int) -> list[float]:
    """A walk that covers the distances evenly, 1/T of their sum at a time."""

    def after(way: float) -> float:
        for i, distance in enumerate(DISTANCES):
            if way <= distance or i == len(DISTANCES) - 1:
                return LOG_SNR[i] + (LOG_SNR[i + 1] - LOG_SNR[i]) * min(way / distance, 1.0)
            way -= distance
        raise AssertionError

    return betas_of_log_snr([after(sum(DISTANCES) * t / T) for t in range(1, T + 1)])


BETAS = {
    "learned": learned_betas,
    "linear": linear_betas,
    "cosine": cosine_betas,
    "quadratic": quadratic_betas,
    "constant": constant_betas,
    "warmup10": lambda T: warmup_betas(T, 0.1),
    "warmup50": lambda T: warmup_betas(T, 0.5),
    "jsd": jsd_betas,
    "sigmoid_beta": sigmoid_beta_betas,
    "sigmoid_alpha_bar": sigmoid_alpha_bar_betas,
    "zero_terminal_snr": zero_terminal_snr_betas,
    "shifted_cosine": shifted_cosine_betas,
    "tangent": tangent_betas,
    "constant_rate": constant_rate_betas,
}


IMPLEMENTED = {
    "schedule": BETAS,
    "prediction": ("eps", "x0", "v", "mu", "edm"),
    "variance": ("beta", "beta_tilde", "interpolated", "learned_range", "learned_diagonal"),
    "loss": ("simple", "vlb", "vdm", "hybrid", "min_snr", "p2", "truncated_snr", "constant_weight", "edm", "likelihood"),
}
"""The options that this file implements: every option of conf/ needs a second opinion."""


def check(group: str, option: str) -> None:
    if option not in IMPLEMENTED[group]:
        raise LookupError(f"{group}={option} has no second implementation in tests/core/reference.py: add one")


class Tables:
    """Ho et al., section 2: β_1..β_T with α_t = 1 - β_t, ᾱ_t = Π α, and Eq. 7's β̃_t."""

    def __init__(self, betas: list[float]):
        self.T = len(betas)
        self.beta = [math.nan, *betas]
        self.abar = [1.0]
        for b in betas:
            self.abar.append(self.abar[-1] * (1.0 - b))

    def respaced(self, times: list[int]) -> "Tables":
        """iDDPM section 4: β' = 1 - ᾱ_{S_i}/ᾱ_{S_{i-1}}; `times` are S_1 < ... < S_K, S_0 = 0 understood."""
        previous = [0, *times[:-1]]
        return Tables([1.0 - self.abar[t] / self.abar[s] for s, t in zip(previous, times, strict=True)])

    def beta_tilde(self, t: int) -> float:
        return (1.0 - self.abar[t - 1]) / (1.0 - self.abar[t]) * self.beta[t]

    def log_beta_tilde_clipped(self, t: int) -> float:
        return math.log(self.beta_tilde(max(t, 2)))

    def log_var(self, kind: str, t: int, raw: Tensor | None = None) -> Tensor | float:
        """fixedlarge, fixedsmall, and iDDPM Eq. 15 with frac = (raw + 1)/2."""
        check("variance", kind)
        if kind == "beta_tilde":
            return self.log_beta_tilde_clipped(t)
        if kind == "beta":
            return math.log(self.beta_tilde(2)) if t == 1 else math.log(self.beta[t])
        if kind == "learned_diagonal":
            return raw
        frac = 0.5 if kind == "interpolated" else (raw + 1.0) / 2.0
        return frac * math.log(self.beta[t]) + (1.0 - frac) * self.log_beta_tilde_clipped(t)

    def diffuse(self, x0: Tensor, eps: Tensor, t: int) -> Tensor:
        return math.sqrt(self.abar[t]) * x0 + math.sqrt(1.0 - self.abar[t]) * eps

    def sigma(self, t: int) -> float:
        """Of x_t/√ᾱ_t = x_0 + σ ε."""
        return math.sqrt((1.0 - self.abar[t]) / self.abar[t])

    def q_mean(self, x0: Tensor, xt: Tensor, t: int) -> Tensor:
        """Eq. 7."""
        b, a, now, before = self.beta[t], 1.0 - self.beta[t], self.abar[t], self.abar[t - 1]
        return math.sqrt(before) * b / (1.0 - now) * x0 + math.sqrt(a) * (1.0 - before) / (1.0 - now) * xt

    def target(self, kind: str, x0: Tensor, eps: Tensor, t: int) -> Tensor:
        check("prediction", kind)
        if kind == "eps":
            return eps
        if kind == "x0":
            return x0
        if kind == "mu":
            return self.q_mean(x0, self.diffuse(x0, eps, t), t)
        if kind == "edm":
            skip, out, _, _ = preconditioning(self.sigma(t))
            return 1.0 / out * (x0 - skip * (x0 + self.sigma(t) * eps))
        return math.sqrt(self.abar[t]) * eps - math.sqrt(1.0 - self.abar[t]) * x0

    def p_mean(self, kind: str, out: Tensor, xt: Tensor, t: int) -> Tensor:
        """Eq. 11; a v-network's ε is √ᾱ v + √(1-ᾱ) x_t."""
        if kind == "mu":
            return out
        if kind == "x0":
            return self.q_mean(out, xt, t)
        if kind == "edm":
            skip, scale, _, _ = preconditioning(self.sigma(t))
            return self.q_mean(skip * xt / math.sqrt(self.abar[t]) + scale * out, xt, t)
        noise = math.sqrt(1.0 - self.abar[t])
        eps = out if kind == "eps" else math.sqrt(self.abar[t]) * out + noise * xt
        return (xt - self.beta[t] / noise * eps) / math.sqrt(1.0 - self.beta[t])

    def term_bpd(self, setting, x0: Tensor, eps: Tensor, t: int, out: Tensor, raw: Tensor | None) -> Tensor:
        """L_{t-1} of Eq. 5 for one example, in bits per dimension; L_0 at t = 1."""
        xt = self.diffuse(x0, eps, t)
        mean = self.p_mean(setting.prediction, out, xt, t)
        log_var = self.log_var(setting.variance, t, raw)
        log_var = log_var if isinstance(log_var, Tensor) else torch.full_like(x0, log_var)
        if t > 1:
            nats = normal_kl(self.q_mean(x0, xt, t), math.log(self.beta_tilde(t)), mean, log_var)
        elif setting.levels is None:
            nats = 0.5 * math.log(2 * math.pi) + 0.5 * log_var + 0.5 * (x0 - mean) ** 2 / torch.exp(log_var)
        else:
            nats = -discretised_log_likelihood(x0, mean, 0.5 * log_var, setting.levels)
        return nats.mean() / LN2

    def prior_bpd(self, x0: Tensor) -> Tensor:
        """L_T = KL(q(x_T|x_0) || N(0, I))."""
        mean = math.sqrt(self.abar[self.T]) * x0
        return normal_kl(mean, math.log(1.0 - self.abar[self.T]), torch.zeros_like(x0), torch.zeros_like(x0)).mean() / LN2

    def likelihood(self, setting, x0: Tensor, eps: Tensor, t: int, out: Tensor) -> Tensor:
        """VDM (Kingma et al. 2021) Eq. 14 with γ = -log SNR, for s = t - 1; at t = 1 the decoder of σ² = β̃_2."""
        if t == 1:
            return self.term_bpd(setting._replace(variance="beta_tilde"), x0, eps, t, out, None)
        xt, (a, b) = self.diffuse(x0, eps, t), (self.beta[t], 1.0 - self.beta[t])
        eps_hat = (xt - math.sqrt(b) * self.p_mean(setting.prediction, out, xt, t)) * math.sqrt(1.0 - self.abar[t]) / a
        rise = math.log(self.abar[t - 1] / (1.0 - self.abar[t - 1])) - math.log(self.abar[t] / (1.0 - self.abar[t]))
        return 0.5 * math.expm1(rise) * ((eps - eps_hat) ** 2).mean() / LN2

    def weight(self, name: str, kind: str, t: int) -> float:
        """Of the squared error in the network's own target, as each paper or its authors' code writes it for that target."""
        snr = self.abar[t] / (1.0 - self.abar[t])
        return WEIGHTS[name][kind](snr)

    def loss(self, name: str, setting, x0, eps, t: int, out, raw, scale: float = 1.0, lam: float = 1e-3) -> Tensor:
        """Eq. 14; Ho's mean-over-t form of Eq. 5; iDDPM Eq. 16 with the sum's T made explicit and the mean held fixed."""
        check("loss", name)
        simple = ((out - self.target(setting.prediction, x0, eps, t)) ** 2).mean()
        if name == "simple":
            return simple
        if name in WEIGHTS:
            return self.weight(name, setting.prediction, t) * simple
        if name == "likelihood":
            return self.likelihood(setting, x0, eps, t, out)
        if name == "vlb":
            return scale * self.term_bpd(setting, x0, eps, t, out, raw)
        return simple + lam * self.T * self.term_bpd(setting, x0, eps, t, out.detach(), raw)


WEIGHTS = {
    "min_snr": {
        "eps": lambda s: min(s, 5.0) / s,
        "x0": lambda s: min(s, 5.0),
        "v": lambda s: min(s, 5.0) / (s + 1.0),
        "edm": lambda s: min(s, 5.0) * c_out(s) ** 2,
    },
    "p2": {
        "eps": lambda s: 1.0 / (1.0 + s),
        "x0": lambda s: s / (1.0 + s),
        "v": lambda s: s / (1.0 + s) ** 2,
        "edm": lambda s: s / (1.0 + s) * c_out(s) ** 2,
    },
    "truncated_snr": {
        "x0": lambda s: max(s, 1.0),
        "v": lambda s: max(s, 1.0) / (s + 1.0),
        "edm": lambda s: max(s, 1.0) * c_out(s) ** 2,
    },
    "constant_weight": {"x0": lambda s: 1.0, "v": lambda s: 1.0 / (s + 1.0), "edm": lambda s: c_out(s) ** 2},
    "edm": {"x0": lambda s: edm_lambda(s), "v": lambda s: edm_lambda(s) / (s + 1.0), "edm": lambda s: 1.0},
}


def normal_kl(mean1: Tensor, log_var1: float, mean2: Tensor, log_var2: Tensor) -> Tensor:
    ratio = torch.exp(log_var1 - log_var2)
    return 0.5 * (log_var2 - log_var1 + ratio - 1.0 + (mean1 - mean2) ** 2 * torch.exp(-log_var2))
