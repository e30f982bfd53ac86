"""Schedules and chains: tables against the papers' formulas, golden values, and what the constructors refuse."""

import math

import pytest
import torch

from ddpm_lab.core.path import Chain, NoiseSchedule
from ddpm_lab.core.schedule import cosine, from_betas, linear

from . import reference
from .support import GOLDEN, REFUSED, assert_close, make, options, tables_of

F64 = torch.float64
FROM_TWO = ("zero_terminal_snr", "learned")
"""The schedules that need two steps or more."""
LEARN_ENDS = {"learned": {"learn_ends": True}}
"""Without, T = 2 leaves nothing to learn."""
ROUNDED = 2.3e-16
"""What rounding of β next to 1 moves ᾱ by."""


@pytest.mark.parametrize("T", [1, 2, 3, 10, 1000, 4000])
@pytest.mark.parametrize("name", options("schedule"))
def test_schedule_is_lawful(name, T):
    if name in FROM_TWO and T == 1:
        with pytest.raises(ValueError, match=r"T=1: .*2"):
            make("schedule", name, T=T)
        return
    schedule = make("schedule", name, T=T, **LEARN_ENDS.get(name, {}))
    ab = schedule.alphas_bar
    assert ab.dtype == F64
    assert ab[0] == 1
    assert (ab.diff() < 0).all()
    assert schedule.T == T == len(ab) - 1
    assert ((schedule.betas > 0) & (schedule.betas <= 1)).all()
    assert_close(schedule.snr, ab / (1 - ab), rtol=1e-12)
    assert_close(from_betas(schedule.betas).alphas_bar, ab, rtol=1e-11, atol=ROUNDED)


@pytest.mark.parametrize("T", [2, 7, 1000, 4000])
@pytest.mark.parametrize("name", options("schedule"))
def test_tables_equal_the_reference(name, T):
    tables, schedule = tables_of(name, T), make("schedule", name, T=T, **LEARN_ENDS.get(name, {}))
    table, each = (2e-6, 2e-6) if name == "learned" else (1e-11, 1e-9)  # whose parameters are float32
    assert_close(schedule.alphas_bar, torch.tensor(tables.abar, dtype=F64), rtol=table, atol=ROUNDED)
    assert_close(schedule.betas, torch.tensor(tables.beta[1:], dtype=F64), rtol=each, atol=0)


GOLDEN_TABLE = {
    # β_1, ᾱ_T, β̃_2, clipped log β̃_1, log β_2, 1/√ᾱ_T, β̃/β at t = 2 and 11, by the formulas of Ho et al. and iDDPM
    "linear-1k": ("1e-4", "4.035830e-5", "5.453188e-5", "-9.816725", "-9.02869", "157.4", ".4547", ".8639"),
    "linear-4k": ("2.5e-5", "4.246652e-5", "1.280363e-5", "-11.265782", "-10.54807", "153.5", ".4879", ".8910"),
    "cosine-1k": ("4.128422e-5", "2.428767e-9", "2.178950e-5", "-10.734083", "-9.98379", "20291", ".4722", ".8754"),
    "cosine-4k": ("9.865819e-6", "1.517980e-10", "5.007683e-6", "-12.204537", "-11.49613", "81165", ".4924", ".8970"),
    "quad-1k": ("1e-4", "7.334125e-4", "5.065600e-5", "-9.890453", "-9.18420", "36.9", ".4935", ".8977"),
}


def half_unit(text: str) -> float:
    """Half of the last printed digit."""
    digits, _, exponent = text.partition("e")
    return 0.5 * 10.0 ** (int(exponent or 0) - len(digits.partition(".")[2]))


@pytest.mark.parametrize("column", GOLDEN_TABLE)
def test_golden_tables(column):
    schedule = GOLDEN[column]()
    chain, ab = schedule.chain(), schedule.alphas_bar
    second, tenth = chain[2], chain[11]
    found = [
        schedule.betas[0],
        ab[-1],
        second.log_beta_tilde.exp(),
        chain[1].log_beta_tilde,
        second.log_beta,
        ab[-1].rsqrt(),
        (second.log_beta_tilde - second.log_beta).exp(),
        (tenth.log_beta_tilde - tenth.log_beta).exp(),
    ]
    for value, text in zip(found, GOLDEN_TABLE[column], strict=True):
        # 1e-4 and 2.5e-5 are exact, not rounded; everywhere else the printed digits decide
        assert float(value) == pytest.approx(float(text), abs=1.01 * half_unit(text), rel=0)


@pytest.mark.parametrize(("T", "rescale", "last"), [(1000, False, 0.02), (4000, True, 0.005), (4000, False, 0.02)])
def test_rescaling_multiplies_both_ends(T, rescale, last):
    betas = linear(T, rescale=rescale).betas
    first = 1e-4 * (1000 / T if rescale else 1)
    assert_close(torch.stack([betas[0], betas[-1]]), torch.tensor([first, last], dtype=F64), rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("name", "printed"),
    [("constant", "1.68e-9"), ("warmup10", "4.61e-9"), ("warmup50", "2.61e-7"), ("sigmoid_alpha_bar", "3.003e-7")],
)
def test_golden_ends(name, printed):
    assert float(make("schedule", name).alphas_bar[-1]) == pytest.approx(float(printed), abs=half_unit(printed), rel=0)


def test_jsd_falls_evenly_to_nothing():
    assert_close(make("schedule", "jsd", T=8).alphas_bar, 1 - torch.arange(9, dtype=F64) / 8)


@pytest.mark.parametrize("base", ["linear", "quadratic", "sigmoid_beta"])
def test_zero_terminal_snr_moves_only_the_end(base):
    moved, ab = make("schedule", "zero_terminal_snr", base=base), make("schedule", base).alphas_bar
    assert moved.alphas_bar[-1] == 0
    assert_close(moved.alphas_bar[1], ab[1], rtol=1e-12)
    ratio = moved.alphas_bar[1:].sqrt().diff() / ab[1:].sqrt().diff()
    assert_close(ratio, ratio[0].expand(999), rtol=1e-6)


def test_unscaled_hundred_steps_leave_signal():
    assert float(linear(100).alphas_bar[-1]) == pytest.approx(0.364, abs=5e-4)
    assert float(linear(100, rescale=True).alphas_bar[-1]) < 1e-4


@pytest.mark.parametrize("T", [1000, 4000])
def test_cosine_reports_its_one_clipped_beta(T):
    schedule = cosine(T)
    assert schedule.clipped == 1
    assert_close(schedule.betas[-1], 0.999)
    assert cosine(T, max_beta=0.5).clipped > 1
    assert linear(T).clipped == 0


@pytest.mark.parametrize("times", [(1,), (7,), (1, 2), (3, 7), (1, 4, 5, 9), tuple(range(1, 10))])
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_chain_is_the_respaced_process(name, times):
    """Every column of every step, against β tables re-derived for the sub-chain."""
    full = tables_of(name, 9)
    sub, chain = full.respaced(list(times)), make("schedule", name, T=9).chain(times)
    x0, xt = torch.tensor([0.7], dtype=F64), torch.tensor([-1.3], dtype=F64)
    for i, (t, s) in enumerate(zip(times, (0, *times), strict=False), start=1):
        step = chain[t]
        assert (int(step.s), int(step.t)) == (s, t)
        assert_close(torch.stack([*step.at_s]), [math.sqrt(full.abar[s]), math.sqrt(1 - full.abar[s])])
        assert_close(torch.stack([*step.at_t]), [math.sqrt(full.abar[t]), math.sqrt(1 - full.abar[t])])
        assert_close(step.posterior(x0, xt), sub.q_mean(x0, xt, i))
        assert_close(step.log_beta, math.log(sub.beta[i]))
        if len(times) > 1:
            assert_close(step.log_beta_tilde, sub.log_beta_tilde_clipped(i))


def test_one_step_chain_takes_its_beta():
    step = linear(10).chain((10,))[10]
    assert step.log_beta_tilde == step.log_beta
    assert step.posterior.x0_coef == 1
    assert step.posterior.xt_coef == 0


def columns(step):
    return [*step[:2], *step.at_s, *step.at_t, *step.posterior, *step.mu, *step[6:]]


def test_batched_steps_equal_single_ones():
    chain = cosine(20).chain((2, 5, 11, 20))
    t = torch.tensor([11, 2, 20, 2])
    batch = chain.step(t, like=torch.zeros(4, 3, 2, 2, dtype=F64))
    flat = columns(batch)
    assert all(column.shape == (4, 1, 1, 1) for column in flat)
    for i, time in enumerate(t.tolist()):
        one = chain[time]
        assert torch.equal(torch.stack([c[i, 0, 0, 0] for c in flat]), torch.stack(columns(one)))
    assert chain.step(t, like=torch.zeros(4, 2)).at_t.signal_scale.dtype == torch.float32


def test_steps_go_down_to_data():
    chain = linear(10).chain((2, 5, 10))
    assert [(int(p.s), int(p.t)) for p in chain.steps_down()] == [(5, 10), (2, 5), (0, 2)]
    assert len(chain) == 3
    assert linear(10).chain().times == tuple(range(1, 11))


@pytest.mark.parametrize("times", [(), (0, 3), (3, 3), (5, 2), (-1, 4), (2, 11), (11,)])
def test_chain_refuses_times_that_do_not_rise_within_the_schedule(times):
    with pytest.raises(ValueError, match=r"times of a chain must rise within 1\.\.10"):
        Chain(linear(10), times)


@pytest.mark.parametrize("t", [1, 3, 10])
def test_a_time_off_the_chain_is_refused(t):
    with pytest.raises(ValueError, match=rf"{t}.*not on this chain"):
        linear(10).chain((2, 5, 9)).step(torch.tensor([5, t]), like=torch.zeros(2, 1))


@pytest.mark.parametrize("t", [0, 1, 3, 10, -1])
def test_a_single_time_off_the_chain_is_refused(t):
    with pytest.raises((ValueError, LookupError)):
        linear(10).chain((2, 5, 9))[t]


@pytest.mark.parametrize("t", [0, -1, 11])
def test_a_time_off_the_schedule_is_refused(t):
    with pytest.raises((ValueError, LookupError)):
        linear(10).chain().step(torch.tensor([t]), like=torch.zeros(1, 1))


@pytest.mark.parametrize(
    "values",
    [[1.0], [0.9, 0.5], [1.0, 0.5, 0.5], [1.0, 0.5, 0.6], [1.0, 0.5, -0.1], [1.0, math.nan], [[1.0, 0.5]], [1.0, 1.0]],
)
def test_noise_schedule_refuses_what_is_no_table(values):
    with pytest.raises(REFUSED, match="alphas_bar"):
        NoiseSchedule(torch.tensor(values, dtype=F64))


def test_noise_schedule_refuses_float32():
    with pytest.raises(REFUSED, match="alphas_bar"):
        NoiseSchedule(torch.tensor([1.0, 0.5]))


@pytest.mark.parametrize("bad", [0.0, -0.1, 1.1, math.nan, math.inf])
def test_from_betas_names_the_wrong_beta(bad):
    with pytest.raises(ValueError, match=r"β_3 = .*\bT\b"):
        from_betas(torch.tensor([0.1, 0.2, bad, bad], dtype=F64))


def test_from_betas_takes_no_float32_error():
    """Float32 β would carry 1e-7 into every table: refused, or at least multiplied out in float64."""
    betas = torch.linspace(1e-4, 0.02, 1000)
    try:
        found = from_betas(betas).alphas_bar
    except REFUSED:
        return
    assert_close(found[-1], reference.Tables([float(b) for b in betas]).abar[-1], rtol=1e-9, atol=0)


def test_rescaling_too_short_a_chain_is_refused():
    with pytest.raises(ValueError, match=r"T=10 rescale=true.*T >= 20"):
        linear(10, rescale=True)


@pytest.mark.parametrize("name", options("schedule"))
def test_no_steps_are_refused(name):
    with pytest.raises(ValueError):
        make("schedule", name, T=0)


@pytest.mark.parametrize("name", options("schedule"))
def test_full_chain_of_one_or_two_steps(name):
    for T in (2,) if name in FROM_TWO else (1, 2):
        chain = make("schedule", name, T=T, **LEARN_ENDS.get(name, {})).chain()
        assert torch.isfinite(chain._table).all()
        assert len(list(chain.steps_down())) == T
