"""Averages by powers of the step: their profile, and sums of them that make another, against closed forms and ema-pytorch."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from ema_pytorch.post_hoc_ema import sigma_rel_to_gamma, solve_weights
from scipy.integrate import quad

from ddpm_lab.core.posthoc import LONGEST, Profiles, combined, exponent, inner, length, past, rounding

LENGTHS = [0.001, 0.01, 0.03, 0.05, 0.1, 0.2, 0.28, LONGEST]


def profiles(*pairs: tuple[float, float]) -> Profiles:
    """Of pairs of t and γ."""
    return Profiles(*torch.tensor(pairs, dtype=torch.float64).T)


def kept(T: int = 2000, n: int = 40, lengths=(0.05, 0.10)) -> Profiles:
    return profiles(*((T * i / n, exponent(each)) for i in range(1, n + 1) for each in lengths))


@pytest.mark.parametrize("sigma_rel", LENGTHS)
def test_length_and_exponent_are_inverse(sigma_rel):
    assert length(exponent(sigma_rel)) == pytest.approx(sigma_rel, rel=1e-14)
    assert exponent(sigma_rel) == pytest.approx(sigma_rel_to_gamma(sigma_rel), rel=1e-12, abs=1e-12)


def test_exponents_of_the_paper():
    """Of σ_rel = 0.05 and 0.10, which the paper tracks; and of the even average, the longest."""
    assert [round(exponent(sigma_rel), 2) for sigma_rel in (0.05, 0.10)] == [16.97, 6.94]
    assert length(0.0) == pytest.approx(1 / math.sqrt(12), rel=1e-15)
    assert length(0.0) == pytest.approx(LONGEST, abs=1e-4)


@pytest.mark.parametrize("gamma", [0, 1, 7, 17])
def test_the_recursion_has_the_weights_of_the_profile(gamma):
    """Exactly, in fractions: those of step τ are ∫ from τ − 1 to τ of its density. They add up to 1."""
    T, weights = 30, []
    for t in range(1, T + 1):
        beta = Fraction(t - 1, t) ** (gamma + 1)
        assert past(t, float(gamma)) == pytest.approx(float(beta), rel=1e-14)
        weights = [beta * w for w in weights] + [1 - beta]
    assert weights == [Fraction(tau ** (gamma + 1) - (tau - 1) ** (gamma + 1), T ** (gamma + 1)) for tau in range(1, T + 1)]
    assert sum(weights) == 1


@pytest.mark.parametrize("sigma_rel", [0.03, 0.05, 0.1, 0.2, 0.28])
def test_the_recursion_has_the_length_that_was_asked_for(sigma_rel):
    T, gamma = 20_000, exponent(sigma_rel)
    betas = np.array([past(t, gamma) for t in range(1, T + 1)])
    weights = (1 - betas) * np.append(np.cumprod(betas[:0:-1])[::-1], 1)
    tau = np.arange(1, T + 1) - 0.5
    mean = weights @ tau
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    assert math.sqrt(weights @ (tau - mean) ** 2) / T == pytest.approx(sigma_rel, rel=1e-6)


def test_inner_products_are_integrals():
    a, b = profiles((3.0, 2.0), (5.0, 0.5), (4.0, 0.0)), profiles((4.0, 1.0), (2.0, 6.0))

    def density(t: float, gamma: float, tau: float) -> float:
        return (gamma + 1) * tau**gamma / t ** (gamma + 1)

    for i, (t, gamma) in enumerate(zip(*a, strict=True)):
        for j, (s, other) in enumerate(zip(*b, strict=True)):
            t_, g_, s_, o_ = map(float, (t, gamma, s, other))
            integral = quad(lambda tau, p=(t_, g_), q=(s_, o_): density(*p, tau) * density(*q, tau), 0, min(t_, s_))[0]
            assert float(inner(a, b)[i, j]) == pytest.approx(integral, rel=1e-10)


def test_a_kept_length_is_that_average_alone():
    averages = kept()
    found = combined(averages, profiles((2000, exponent(0.05)), (2000, exponent(0.10)), (1000, exponent(0.10))))
    for column, place in enumerate((78, 79, 39)):
        unit = torch.eye(80, dtype=torch.float64)[place]
        torch.testing.assert_close(found.coefficients[:, column], unit, rtol=0, atol=1e-9)
    assert found.error.max() < 1e-6


@pytest.mark.parametrize("n", [5, 20, 40, 100])
def test_coefficients_add_up_to_1(n):
    """So the average of a constant is that constant."""
    found = combined(kept(n=n), profiles(*((2000, exponent(sigma_rel)) for sigma_rel in LENGTHS)))
    torch.testing.assert_close(found.coefficients.sum(0), torch.ones(len(LENGTHS)).double(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("sigma_rel", [0.02, 0.03, 0.07, 0.15, 0.25])
def test_sums_are_the_nearest_and_those_of_ema_pytorch_but_for_the_condition(sigma_rel):
    """ema-pytorch solves without it: the difference has the gradient of the condition, and is small where the error is."""
    averages, wanted = kept(), profiles((2000, exponent(sigma_rel)))
    found = combined(averages, wanted)
    free = solve_weights(averages.t, averages.gamma, wanted.t, wanted.gamma)
    gradient = (inner(averages, averages) @ (found.coefficients - free))[:, 0]
    torch.testing.assert_close(gradient, gradient.mean().expand_as(gradient), rtol=0, atol=1e-13)
    assert abs(float(free.sum()) - 1) < float(found.error)
    generator = torch.Generator().manual_seed(0)
    gram, right = inner(averages, averages), inner(averages, wanted)

    def distance(x: torch.Tensor) -> float:
        return float(x.T @ gram @ x - 2 * x.T @ right)

    for _ in range(20):
        change = torch.randn(80, 1, generator=generator, dtype=torch.float64)
        assert distance(found.coefficients + 1e-2 * (change - change.mean())) > distance(found.coefficients)


@pytest.mark.parametrize("sigma_rel", [0.02, 0.03, 0.07, 0.15, 0.25])
def test_the_error_is_that_of_the_profiles(sigma_rel):
    """Summed step by step, as the recursion weighs them."""
    T, gamma, averages = 2000, exponent(sigma_rel), kept()
    found = combined(averages, profiles((T, gamma)))

    def weights(t: float, gamma: float) -> np.ndarray:
        ends = np.minimum(np.arange(T + 1) / t, 1) ** (gamma + 1)
        return np.diff(ends)

    parts = np.array([weights(float(t), float(each)) for t, each in zip(*averages, strict=True)])
    whole = weights(T, gamma)
    error = np.linalg.norm(found.coefficients[:, 0].numpy() @ parts - whole) / np.linalg.norm(whole)
    assert float(found.error[0]) == pytest.approx(error, rel=0.02)


@pytest.mark.parametrize("power", [0.5, 1, 3])
@pytest.mark.parametrize("sigma_rel", [0.02, 0.03, 0.07, 0.15, 0.25])
def test_the_average_of_a_power_is_exact(power, sigma_rel):
    """Of θ(τ) = τ^p it is (γ + 1)/(γ + p + 1) t^p; the sum of the kept averages errs by less than their profiles."""

    def average(t: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
        return (gamma + 1) / (gamma + power + 1) * t**power

    averages, wanted = kept(), profiles((2000, exponent(sigma_rel)))
    found = combined(averages, wanted)
    solved = found.coefficients[:, 0] @ average(*averages)
    assert float(solved) == pytest.approx(float(average(*wanted)), rel=float(found.error) / 5)


def test_rounding_is_that_of_independent_errors():
    """Drawn evenly up to the unit of each average, by which they have a third of the square."""
    generator = torch.Generator().manual_seed(0)
    x, unit, v = torch.tensor([[12.0, 1], [-15, 0], [4, 0]]).double(), torch.tensor([2.0**-11, 2**-11, 2**-24]).double(), 1e-4

    def drawn(n: int) -> torch.Tensor:
        return torch.rand(n, 3, generator=generator, dtype=torch.float64) * 2 - 1

    a, b = drawn(200_000), drawn(200_000)
    for column in range(2):
        exact, done = x[:, column].sum(), ((x[:, column] + v * a) * (1 + unit * b)).sum(1)
        root = float(((done - exact) ** 2).mean().sqrt())
        upper = float(rounding(x, unit, v)[column])
        squares = ((unit * x[:, column]) ** 2).sum() + 3 * v**2
        assert root == pytest.approx(math.sqrt(float(squares) / 3), rel=0.01)
        assert root < upper < 3 * root
