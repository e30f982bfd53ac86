"""The schedule card: its numbers against the literature, its warnings exactly where they belong."""

import math

import pytest
import torch

from ddpm_lab.core.diffusion import GaussianDiffusion
from ddpm_lab.core.loss import VLB, Hybrid, Simple
from ddpm_lab.core.prediction import Eps, V
from ddpm_lab.core.schedule import cosine, from_betas, linear, shifted_cosine
from ddpm_lab.core.variance import Beta, BetaTilde, LearnedRange
from ddpm_lab.domains import Incompatible
from ddpm_lab.models.card import schedule_card, vlb_weights

X0 = (torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1).double()


def diffusion(schedule, prediction=None, variance=None) -> GaussianDiffusion:
    return GaussianDiffusion(schedule, prediction or Eps(), variance or Beta(), 256)


def card(schedule, prediction=None, loss=None, levels=None) -> list[str]:
    """Of continuous data, unless `levels` says otherwise."""
    d = GaussianDiffusion(schedule, prediction or Eps(), Beta(), levels)
    return schedule_card(d, loss or Simple(), X0)


def warnings(lines: list[str]) -> list[str]:
    """The first word of each, enough to tell them apart."""
    return [line.removeprefix("warning: ").split()[0] for line in lines if line.startswith("warning: ")]


@pytest.mark.parametrize("variance", [Beta(), BetaTilde(), LearnedRange()])
@pytest.mark.parametrize("make", [linear, cosine])
def test_weights_are_those_of_ddpm_eq_12(make, variance):
    schedule = make(50)
    beta, ab = schedule.betas.tolist(), schedule.alphas_bar.tolist()
    found = vlb_weights(diffusion(schedule, variance=variance)).tolist()
    assert len(found) == 49
    for t in range(2, 51):
        b = beta[t - 1]
        tilde = b * (1 - ab[t - 1]) / (1 - ab[t])
        sigma2 = {"Beta": b, "BetaTilde": tilde, "LearnedRange": math.sqrt(b * tilde)}[type(variance).__name__]
        assert found[t - 2] == pytest.approx(b**2 / (2 * sigma2 * (1 - b) * (1 - ab[t])), rel=1e-9)


@pytest.mark.parametrize(
    ("make", "variance", "weight", "t", "last"),
    [(cosine, Beta, 499.5, 1000, 499.5), (linear, Beta, 0.27, 2, 0.0102), (linear, BetaTilde, 0.60, 2, 0.0102)],
)
def test_largest_weight_is_that_of_the_literature(make, variance, weight, t, last):
    """β² / (2σ² α (1 − ᾱ)), DDPM Eq. 12: for cosine its last is β_T / 2α_T = 0.999 / 0.002."""
    lines = schedule_card(diffusion(make(1000), variance=variance()), Simple(), X0)
    assert vlb_weights(diffusion(make(1000), variance=variance()))[-1] == pytest.approx(last, rel=5e-3)
    line = next(line for line in lines if line.startswith("largest weight"))
    assert line.endswith(f"at t = {t}")
    assert float(line.split(": ")[1].split()[0]) == pytest.approx(weight, abs=0.005)


def test_first_lines_say_what_the_schedule_does():
    first, second, *_ = card(linear(1000))
    assert first.startswith("T = 1000   ᾱ_T = 4.04e-05   L_T = ")
    ab = 4.035830e-5
    prior = 0.5 * (ab * float((X0**2).mean()) - ab - math.log1p(-ab)) / math.log(2)
    assert float(first.split("L_T = ")[1].split()[0]) == pytest.approx(prior, rel=5e-3)
    assert second == "SNR from 9999 at t = 1 to 4.04e-05 at T   β clipped at 0 of 1000 t"
    assert "β clipped at 1 of 1000 t" in card(cosine(1000))[1]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (linear(1000), []),
        (linear(100), ["ᾱ_T"]),
        (linear(100, rescale=True), []),
        (linear(4000, rescale=True), []),
        (cosine(1000), ["1/√ᾱ_T"]),
        (cosine(1000, max_beta=0.5), []),
    ],
    ids=["linear", "linear short", "linear short, rescaled", "linear long, rescaled", "cosine", "cosine, other cap"],
)
def test_schedule_warns_exactly_where_it_should(schedule, expected):
    assert warnings(card(schedule)) == expected


def test_warnings_carry_their_numbers():
    short = next(line for line in card(linear(100)) if line.startswith("warning"))
    assert "ᾱ_T = 0.36: at T the data still make up 60% of the amplitude" in short
    near = next(line for line in card(cosine(1000)) if line.startswith("warning"))
    assert "1/√ᾱ_T = 20,291 amplifies errors of ε̂" in near
    noisy = card(cosine(1000), V(), VLB())[-1]
    assert "one t weighs 500 where the median weighs 0.00" in noisy


def test_v_is_not_warned_about_amplification():
    assert warnings(card(cosine(1000), V())) == []


@pytest.mark.parametrize("loss", [Simple(), Hybrid()])
def test_only_the_bound_is_warned_about_its_weights(loss):
    assert warnings(card(cosine(1000), Eps(), loss)) == ["1/√ᾱ_T"]
    assert warnings(card(cosine(1000), Eps(), VLB())) == ["1/√ᾱ_T", "loss=vlb:"]
    assert warnings(card(linear(1000), Eps(), VLB())) == []


def test_advice_is_not_what_is_already_done():
    assert not any("prediction=v" in line for line in card(cosine(1000), V(), VLB()))


def test_one_step_has_no_weights():
    assert vlb_weights(diffusion(linear(1))).tolist() == []
    assert len(card(linear(1))) >= 2


def test_no_signal_at_all_at_T_has_a_card():
    assert float(linear(20, rescale=True).alphas_bar[-1]) == 0
    assert warnings(card(linear(20, rescale=True), V())) == []
    with pytest.raises(Incompatible, match="ᾱ_T = 0"):
        card(linear(20, rescale=True), Eps())


def test_two_steps_have_one_weight():
    schedule = from_betas(torch.tensor([0.1, 0.5], dtype=torch.float64))
    assert vlb_weights(diffusion(schedule)).tolist() == pytest.approx([0.5 / (2 * 0.5 * (1 - 0.45))])


def test_where_clipping_hides_it_there_is_no_word_of_amplification():
    assert warnings(card(cosine(1000), levels=256)) == []


@pytest.mark.parametrize(("size", "shape"), [(64, (3, 1, 8, 8)), (8, (3, 1, 8, 8)), (64, (3, 2)), (2, (3, 2))])
def test_a_shift_for_another_side_than_that_of_the_data_is_a_warning(size, shape):
    d = diffusion(shifted_cosine(100, size=size))
    said = [line for line in schedule_card(d, Simple(), torch.zeros(shape, dtype=torch.float64)) if "schedule.size" in line]
    advice = "schedule.size=8 is their shift." if len(shape) == 4 else "choose another schedule."
    same = shape[1:] == (1, size, size)
    assert [line.endswith(advice) and line.startswith(f"warning: schedule.size={size}: ") for line in said] == [True] * (
        not same
    )
