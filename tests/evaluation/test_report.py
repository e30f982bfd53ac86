"""The tables over choices: each has its place, and only what may be compared stands together."""

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from ddpm_lab.evaluation.evaluate import DISTANCE
from ddpm_lab.evaluation.plots import plot_lengths, plot_sweep
from ddpm_lab.evaluation.tables import settings
from ddpm_lab.evaluation.tables import tables as made
from ddpm_lab.metrics.record import Result

from .support import DIGITS, VECTORS, copied, evaluate, found, kept, scored


def tables(text: str) -> list[tuple[str, list[list[str]]]]:
    """The tables of a table.md, head first, each with its title."""
    given = re.findall(r"([^\n|]+)\n\n((?:\|.*\n)+)", text)
    return [(title, [_cells(row) for row in table.splitlines() if "|--" not in row]) for title, table in given]


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_the_table_has_every_choice(run):
    told = evaluate(run, "-m", "sampler=ancestral,ddim", "sampler.steps=4,5", "variance=beta,beta_tilde", "nll.chain=sampler")
    assert len(told.arms) == 8
    (bound, bounds), (distance, distances), (spent, seconds) = tables((told.folder / "table.md").read_text())
    assert "bound on the sampler's chain (10 held-out data, trailing spacing)" in bound
    assert "to 1,437 training data (12 samples), trailing spacing" in distance
    assert [row[:1] for row in bounds] == [["variance"], ["beta"], ["beta_tilde"]]
    assert [row[:2] for row in distances[1:]] == [["ancestral", "beta"], ["ancestral", "beta_tilde"], ["ddim", "any"]]
    assert bounds[0][1:] == distances[0][2:] == seconds[0][2:] == ["4", "5"]
    assert all(word in spent for word in ("seconds per 1,000 samples", "device cpu", "batch 256", "processes 1"))
    for number, arm in enumerate(told.arms):
        column, name = str(arm["steps"]), arm["variance"]
        row = next(row for row in bounds if row[0] == name)
        assert row[bounds[0].index(column)].startswith(f"{told.value(f'bound_{column}', number):.4f} ± ")
        seen = [arm["sampler"], name if arm["sampler"] == "ancestral" else "any"]
        for table, key in ((distances, "pixels_fd"), (seconds, "sampling_seconds")):
            row = next(row for row in table if row[:2] == seen)
            assert row[table[0].index(column)] == f"{told.value(key, number):.4f}"


SETTINGS = {
    "seed": ("seed=0,1", ["seed=0", "seed=1"]),
    "weights": ("weights=ema,raw", ["ema/0.9999", "raw"]),  # in a column of their own
    "eta": ("sampler=ddim sampler.steps=5 sampler.eta=0,0.5", ["sampler.eta=0", "sampler.eta=0.5"]),
    "spacing": (
        "sampler=ddim sampler.steps=5 sampler.spacing=leading,trailing",
        ["sampler.spacing=leading", "sampler.spacing=trailing"],
    ),
    "clip": ("nll.clip=true,false", ["nll.clip=true", "nll.clip=false"]),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_what_else_varies_stands_beside_its_numbers(name, run):
    arguments, settings = SETTINGS[name]
    told = evaluate(run, "-m", *arguments.split())
    assert [arm["weights" if name == "weights" else "setting"] for arm in told.arms] == settings
    seen = [cell for _, table in tables((told.folder / "table.md").read_text()) for row in table for cell in row]
    for number, setting in enumerate(settings):
        assert seen.count(setting) == 3  # a row each of bound, distance and seconds
        distance = next(r for r in told.arms[number]["results"] if r["record"].get("reference"))
        assert f"{distance['value']:.4f}" in seen
    pictures = [arm["picture"] for arm in told.arms]
    assert len(set(pictures)) == 2
    assert all((told.folder / picture).exists() for picture in pictures)


@pytest.mark.slow
def test_two_feature_spaces_judge_the_same_samples_side_by_side(run, capsys):
    told = evaluate(run, "-m", "metrics=pixels,classifier", "sampler=ddim", "sampler.steps=4,5", "nll.chain=sampler")
    assert [arm["setting"] for arm in told.arms] == [""] * 4
    assert len(kept(run, "samples")) == 2  # of the two chains
    assert "equal by construction" not in capsys.readouterr().out
    spaces = ["pixels", told.record("classifier_fd@12", 2)["extractor"]]
    (_, bounds), (distance, distances), (_, seconds) = tables((told.folder / "table.md").read_text())
    assert all(space in distance for space in spaces)
    assert distances[0] == ["sampler", "variance", *(f"{space} {steps}" for space in spaces for steps in (4, 5))]
    found = [told.value(key, arm) for arm, key in enumerate(["pixels_fd"] * 2 + ["classifier_fd@12"] * 2)]
    assert distances[1:] == [["ddim", "any", *(f"{value:.4f}" for value in found)]]
    assert [len(bounds), len(seconds)] == [2, 2]  # measured once, they stand once


def test_metrics_of_another_class_make_no_setting_and_those_of_one_class_do():
    """Whose numbers have the same keys."""
    names = ("pixels", "deep", "wide")
    configs = [{"names.metrics": name, "metrics._target_": "Pixels" if name == "pixels" else "Net"} for name in names]
    assert settings(configs) == ["", "metrics=deep", "metrics=wide"]
    assert settings(configs[:2]) == ["", ""]
    assert settings([config | {"seed": seed} for config in configs[:2] for seed in (0, 1)]) == ["seed=0", "seed=1"] * 2
    assert settings([configs[1] | {"metrics.epochs": n} for n in (1, 2)]) == ["metrics.epochs=1", "metrics.epochs=2"]


def test_feature_spaces_stand_side_by_side_where_all_else_is_equal():
    def arm(space: str, steps: int, value: float, setting: str = "") -> Any:
        record = {"extractor": space, "n": 12, "steps": steps, "T": steps}
        names = {"sampler": "ddim", "variance": "beta"}
        choice = SimpleNamespace(names=names, names_of_samples=names)
        result = Result(space, f"{space} distance", value, None, record)
        return SimpleNamespace(scores={DISTANCE: result}, choice=choice, setting=setting, steps=steps)

    head, line, row = (
        "| sampler | variance | a 2    | a 3    | b 2    | b 3    |",
        "a distance; b distance",
        "1.0000 | 2.0000 | 3.0000 | 4.0000",
    )
    (table,) = made([arm("a", 2, 1), arm("a", 3, 2), arm("b", 2, 3), arm("b", 3, 4)])
    assert (table[0], table[2], len(table)) == (line, head, 5)
    assert row in table[4]
    assert len(made([arm("a", 2, 1), arm("b", 3, 1)])) == 2  # other choices
    assert len(made([arm("a", 2, 1), arm("b", 2, 1, "seed=1")])) == 2
    assert len(made([arm("a", 2, 1), arm("a", 3, 1)])) == 1


def test_each_seed_of_a_sweep_is_measured_with_that_seed(run):
    both = evaluate(run, "-m", "seed=0,1")
    alone = evaluate(copied(run, run.parent / "alone"), "seed=1")
    assert [both.record("bound", arm)["seed"] for arm in (0, 1)] == [0, 1]
    for key, result in ((r["key"], r) for r in scored(alone.arms)[0]["results"]):
        assert both.value(key, 1) == result["value"]
    assert both.value("bound", 0) != both.value("bound", 1)
    assert "seed" not in both.content  # there is no one seed of them all
    assert both.content["weights"] == "ema/0.9999"


def test_several_weights_are_measured_each_with_its_own(run):
    both, raw = evaluate(run, "-m", "weights=ema,raw"), evaluate(run, "weights=raw", "name=raw")
    assert [both.record("bound", arm)["weights"] for arm in (0, 1)] == ["ema/0.9999", "raw"]
    assert both.value("bound", 1) == raw.value("bound")


@pytest.mark.parametrize(
    ("argument", "bounds", "distances", "why"),
    [
        ("nll.n=10,12", 2, 1, "n: 10 against 12"),
        ("quality.n=12,14", 1, 2, "n: 12 against 14"),
        ("nll.split=val,train", 2, 1, "split: val against train"),
    ],
)
def test_numbers_that_may_not_be_compared_stand_in_tables_of_their_own(argument, bounds, distances, why, run):
    told = evaluate(run, "-m", argument)
    text = (told.folder / "table.md").read_text()
    titles = [title for title, _ in tables(text)]
    assert [sum("bound" in title for title in titles), sum("distance" in title for title in titles)] == [bounds, distances]
    assert len(set(titles)) == len(titles)
    assert f"(not comparable with the first of these tables: {why})" in text


def test_one_table_where_all_may_be_compared_says_nothing_of_others(run):
    told = evaluate(run, "-m", "variance=beta,beta_tilde")
    assert "not comparable" not in (told.folder / "table.md").read_text()


def test_several_runs_have_a_folder_each(run, run_of, tmp_path):
    other = copied(run_of(*VECTORS), tmp_path / "vectors")
    evaluate(f"{run},{other}", "-m", "variance=beta,beta_tilde")
    for one, levels in ((run, 17), (other, None)):
        told = found(one)
        assert len(told.arms) == 2
        assert {told.record("bound", arm)["levels"] for arm in (0, 1)} == {levels}
        assert told.content["checkpoint"] == str(one / "checkpoints" / "last.ckpt")
        assert (told.folder / "table.md").exists()
    assert found(other).value("bound") != found(run).value("bound")


def test_two_checkpoints_of_a_run_are_told_apart(run):
    (run / "checkpoints" / "best.ckpt").unlink()
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    for value in checkpoint["ema/0.9999"].values():
        value.mul_(1.5)
    torch.save(checkpoint, run / "checkpoints" / "best.ckpt")
    places = ",".join(f"{run}/checkpoints/{name}.ckpt" for name in ("last", "best"))
    told = evaluate(places, "-m", run=run)
    assert [arm["setting"] for arm in told.arms] == ["checkpoint=last", "checkpoint=best"]
    assert told.value("bound", 0) != told.value("bound", 1)
    assert told.record("bound", 0)["checkpoint_sha256"] != told.record("bound", 1)["checkpoint_sha256"]
    assert "checkpoint" not in told.content


def test_the_protocol_of_analytic_dpm_starts_at_1_and_limits_the_last_noise_of_the_analytic_variance(run):
    """Whichever sampler is chosen; a typed value wins."""
    ask = ["protocol=analytic_dpm", "sampler.steps=4"]
    told = evaluate(run, "-m", *ask, "sampler=ancestral,ddim", "variance=beta,analytic")
    assert {told.record("bound_4", arm)["spacing"] for arm in range(4)} == {"linspace"}
    assert [arm["setting"] for arm in told.arms] == [""] * 4
    text = (told.folder / "table.md").read_text()
    assert text.count("linspace spacing") == 2
    assert text.count("The spacing decides") == 2
    limited = evaluate(run, *ask, "variance=analytic", "name=limited")
    config = OmegaConf.load(limited.folder / "config.yaml")
    assert (config.variance.clip_cov, config.sampler.max_last_noise) == (True, 2)  # a linear schedule
    assert config.sampler.spacing == "linspace"
    other = evaluate(run, *ask, "sampler.spacing=leading", "name=typed")
    assert other.record("bound_4")["spacing"] == "leading"


def test_choices_without_a_score_have_no_table_and_none_of_a_chain(run_of, tmp_path, capsys):
    run = copied(run_of(*DIGITS, "schedule=learned", "loss=vlb"), tmp_path / "learned")
    ask = ["nll.chain=continuous", "quality.n=0"]
    with pytest.raises(SystemExit):
        evaluate(run, "-m", *ask, "variance=beta,beta_tilde", "sampler.steps=2,3")
    said = capsys.readouterr().err
    for key in ("variance", "sampler.steps=2"):
        assert f"{key} has no effect beside nll.chain=continuous quality.n=0" in said
    told = evaluate(run, "-m", *ask, "weights=raw,ema")
    assert told.value("bound_continuous", 0) != told.value("bound_continuous", 1)
    assert not (told.folder / "table.md").exists()
    assert "table.md" not in capsys.readouterr().out


def test_choices_without_a_score_have_no_plot(tmp_path):
    arms: Any = [SimpleNamespace(steps=n, length=n / 20, scores={}) for n in (2, 3)]
    assert plot_sweep(arms, tmp_path / "sweep.png") is None
    assert plot_lengths(arms, tmp_path / "lengths.png") is None
    assert list(tmp_path.iterdir()) == []


def test_full_chains_have_no_word_of_spacing(run):
    told = evaluate(run, "-m", "variance=beta,beta_tilde")
    assert "spacing" not in (told.folder / "table.md").read_text()


def test_network_calls_are_told_where_a_step_has_several(run):
    told = evaluate(run, "-m", "sampler=heun,ddim", "sampler.steps=4", "sampler.spacing=trailing")
    records = {arm["sampler"]: next(r["record"] for r in arm["results"] if r["record"].get("reference")) for arm in told.arms}
    assert (records["heun"]["steps"], records["heun"]["calls"], "calls" in records["ddim"]) == (4, 7, False)
    (note,) = [line for line in (told.folder / "table.md").read_text().splitlines() if line.startswith("Network calls")]
    assert "heun in 4 steps: 7" in note
    assert "ddim" not in note


def test_a_table_says_which_of_its_bounds_are_estimates(run):
    chains = ["sampler.steps=4,5", "nll.chain=sampler", "nll.train_stride=0"]
    told = evaluate(run, "-m", "nll.terms=null,2", *chains, "quality.n=0")
    (line,) = (line for line in (told.folder / "table.md").read_text().splitlines() if line.startswith("Estimates"))
    assert line == "Estimates, not whole bounds; network calls a datum: 4 steps nll.terms=2: 3, 5 steps nll.terms=2: 3."
