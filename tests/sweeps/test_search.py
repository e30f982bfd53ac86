"""A search proposes what may be, learns from what came, and goes on after a stop as if there had been none. Its arms only
pretend to train: their number is a known function of what was typed."""

import importlib.util
import json
import math
import re
from pathlib import Path
from statistics import median

import pytest

from ddpm_lab.cli.sweep import sweep
from ddpm_lab.config.preflight import preflight
from ddpm_lab.errors import UserError

PRETENDS = """
import json, math, os, sys
from pathlib import Path

words = dict(word.split("=", 1) for word in sys.argv[1:])
value = lambda key: words[key].strip("'")
folder = Path(os.path.join(*map(value, ("run.root", "run.experiment", "run.name"))))
task = json.loads(os.environ["TASKS"]).get(folder.name)
if task == "fail":
    sys.exit("error: out of memory")
bowl = (math.log10(float(words.get("optim.lr", 1e-3))) + 2.5) ** 2 + (words.get("schedule") == "linear") \\
    + (int(words.get("schedule.T", 200)) / 100 - 2) ** 2
folder.mkdir(parents=True)
metrics = {"bound_bpd": {"value": bowl}, "pixels_precision": {"value": -bowl}}
if task == "diverge":
    metrics["pixels_precision"]["value"] = None
(folder / "summary.json").write_text(json.dumps({"step": 1900, "metrics": metrics}))
"""
SPACE = "schedule=linear,cosine optim.lr=tag(log,interval(1e-4,1e-1)) schedule.T=interval(100,300)"


@pytest.fixture
def run(pretending):
    """Runs a search."""
    start = pretending(PRETENDS, "-S")
    return lambda line, **tasks: start(f"sweep=search {line}", **tasks)


def arms(name: str) -> list[dict]:
    return json.loads((Path("outputs/multirun") / name / "sweep.json").read_text())["arms"]


def proposed(name: str) -> list[dict[str, str]]:
    return [dict(word.split("=") for word in arm["overrides"]) for arm in arms(name)]


def bowl(words: dict[str, str]) -> float:
    lr, T = float(words["optim.lr"]), int(words["schedule.T"])
    return (math.log10(lr) + 2.5) ** 2 + (words["schedule"] == "linear") + (T / 100 - 2) ** 2


@pytest.mark.soak
def test_it_finds_the_bottom_of_a_bowl(run):
    code, printed = run(f"{SPACE} sweep.trials=30 sweep.seed=1 sweep.name=tpe")
    proposals = proposed("tpe")
    assert (code, len(proposals)) == (0, 30)
    assert all(1e-4 <= float(words["optim.lr"]) <= 1e-1 and 100 <= int(words["schedule.T"]) <= 300 for words in proposals)
    assert len({tuple(words.values()) for words in proposals}) == 30
    values = [bowl(words) for words in proposals]
    assert median(values[15:]) < median(values[:10]) / 2
    best = min(range(30), key=values.__getitem__)
    assert values[best] < 0.02
    assert re.search(rf"best of 30 .*bound_bpd.*\n *{values[best]:.4f} *\[{best}\] ", printed)
    words = " ".join(f"{key}={value}" for key, value in proposals[best].items())
    assert printed.splitlines()[-1].endswith(f"python train.py -m {words} seed=1,2,3")


@pytest.mark.soak
def test_chance_alone_is_uniform_in_the_logarithm(run):
    run("optim.lr=tag(log,interval(1e-4,1e-1)) sweep.trials=20 sweep.method=random sweep.name=random")
    below = sum(float(words["optim.lr"]) < 10**-2.5 for words in proposed("random"))
    assert 4 <= below <= 16  # half of 20, give or take three standard deviations; by the value itself it would be 1


def test_a_search_that_was_stopped_proposes_what_it_would_have(run):
    run(f"{SPACE} sweep.trials=13 sweep.name=whole")
    run(f"{SPACE} sweep.trials=7 sweep.name=parts")
    code, printed = run(f"{SPACE} sweep.trials=13 sweep.name=parts")
    assert code == 0
    assert re.search(r"outputs/multirun/parts.* 7 of 13 ", printed.splitlines()[0])
    assert proposed("parts") == proposed("whole")
    assert "best of 13" in run(f"{SPACE} sweep.trials=13 sweep.name=parts")[1]  # complete: nothing is trained
    assert len(arms("parts")) == 13


def test_the_seed_of_a_search_is_its_own(run):
    for seed in (1, 2):
        run(f"{SPACE} sweep.trials=3 sweep.seed={seed} sweep.name=s{seed}")
    assert proposed("s1") != proposed("s2")


def test_what_fails_is_no_evidence_and_is_tried_again(run):
    code, printed = run(f"{SPACE} sweep.trials=4 sweep.name=f", _1="fail", _3="fail")
    assert (code, [arm["state"] for arm in arms("f")]) == (1, ["done", "failed", "done", "failed"])
    assert "best of 2 " in printed
    before = proposed("f")
    code, printed = run(f"{SPACE} sweep.trials=4 sweep.name=f")
    assert (code, proposed("f")) == (0, before)
    assert "best of 4 " in printed


def test_two_at_a_time(run):
    code, _ = run(f"{SPACE} sweep.trials=6 sweep.n_jobs=2 sweep.name=two")
    assert (code, len({tuple(words.values()) for words in proposed("two")})) == (0, 6)


def test_a_run_without_the_number_is_no_evidence_and_ends_no_search(run):
    line = f"{SPACE} sweep.trials=4 sweep.metric=pixels_precision sweep.name=d"
    code, printed = run(line, _0="diverge", _2="diverge")
    assert (code, [arm["state"] for arm in arms("d")]) == (0, ["done"] * 4)
    assert "best of 2 " in printed
    assert "best of 2 " in run(line)[1]


def test_a_small_space_is_not_tried_twice(run):
    run("schedule.T=interval(100,104) sweep.trials=4 sweep.name=small")
    assert len({words["schedule.T"] for words in proposed("small")}) == 4
    run("optim.lr=interval(0.5,0.500004) sweep.trials=5 sweep.n_jobs=2 sweep.name=smaller")  # to five digits, one number
    assert len(arms("smaller")) == 1


def test_the_same_values_typed_otherwise_are_another_search(run):
    run("optim.lr=1e-3,1e-2,1e-1 schedule=linear,cosine sweep.trials=2 sweep.name=a")
    with pytest.raises(UserError, match=r"^sweep\.name=a: outputs/multirun/a "):
        run("optim.lr=1e-3,1e-2,1e-1 schedule='linear',cosine sweep.trials=3 sweep.name=a")


def test_a_search_of_fewer_is_complete(run):
    run(f"{SPACE} sweep.trials=3 sweep.name=a")
    code, printed = run(f"{SPACE} sweep.trials=2 sweep.name=a")
    assert code == 0
    assert re.search(r"outputs/multirun/a .*complete.* 3 ", printed.splitlines()[0])


def test_an_experiment_may_be_a_search(run, tmp_path, monkeypatch):
    monkeypatch.setenv("TASKS", "{}")
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults: [/experiment/smoke, override /sweep: search]\nsweep: {trials: 3, name: own}\n"
        "trainer: {max_steps: 1900}\n"
    )
    folder = f"--config-dir={tmp_path / 'own'}"
    assert sweep(preflight(["-m", folder, "optim.lr=interval(1e-4,1e-2)", "experiment=mine"]), [folder]) == 0
    assert len(arms("own")) == 3


def test_more_is_better_for_some_numbers(run):
    _, printed = run(f"{SPACE} sweep.trials=3 sweep.metric=pixels_precision sweep.name=p")
    values = [-bowl(words) for words in proposed("p")]
    assert re.search(rf"pixels_precision.*\n *{max(values):.4f} *\[{values.index(max(values))}\]", printed)


def test_numbers_that_may_not_be_compared_are_not_ranked(pretending):
    differing = '{"value": bowl, "standard_error": bowl, "seed": bowl, "levels": len(words["schedule"])}'
    start = pretending(PRETENDS.replace('{"value": bowl}', differing), "-S")
    line = "sweep=search optim.lr=interval(1e-4,1e-1) sweep.trials={n} sweep.name={name} schedule={schedule}"
    with pytest.raises(UserError, match=r"^sweep\.metric=bound_bpd: .*mixed/0 against .*mixed/\d: .*: levels: . against .$"):
        start(line.format(n=6, name="mixed", schedule="linear,constant"))
    assert start(line.format(n=2, name="one", schedule="linear,cosine"))[0] == 0


@pytest.mark.parametrize(
    ("models", "metric", "names"),
    [
        ("vae,hopfield", "bound_bpd", ("Hopfield", "likelihood")),
        ("vae,ae", "pixels_fd", ("Autoencoder", "samples")),
    ],
)
def test_a_number_that_a_model_cannot_have_is_refused_before_training(run, models, metric, names):
    with pytest.raises(UserError) as refused:
        run(f"model={models} optim.lr=interval(1e-4,1e-2) sweep.metric={metric}")
    assert all(name in str(refused.value) for name in (f"sweep.metric={metric}: ", *names))
    assert not Path("outputs").exists()


def test_a_number_that_no_run_has(run):
    with pytest.raises(UserError, match=r"^sweep\.metric=fid@50: .*/0 .*bound_bpd, pixels_precision"):
        run(f"{SPACE} sweep.metric=fid@50")


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("seed=1,2", "seed: "),
        ("optim.lr=0.1", "sweep=search: nothing"),
        ("schedule=linear,cosine", "sweep.trials=20: these are 2 runs"),
        ("schedule.T=interval(100,104)", "sweep.trials=20: these are 5 runs"),
        ("optim.lr=interval(0.1,0.01)", "optim.lr=interval(0.1,0.01): allowed is interval(low, high)"),
        ("optim.lr=tag(log,interval(0,1))", "optim.lr=tag(log,interval(0,1)): allowed is interval(low, high)"),
        ("optim.lr=interval(-1,1)", "1 of the 2 runs|optim.lr=-1.0: allowed is"),
        ("schedule.T=interval(100,200.5)", "schedule.T=interval(100,200.5): the ends of this interval are integers"),
        ("schedule=interval(1,2)", "schedule=interval(1,2): an interval is of numbers"),
        ("schedule=linear,linear optim.lr=0.1", "sweep=search: nothing"),
        ("callbacks.vlb_terms.final_terms=1,8 schedule=linear,cosine", "callbacks.vlb_terms.final_terms: "),
        ("data.val_fraction=0.1,0.2 schedule=linear,cosine", "data.val_fraction: "),
        ("optim.lr=interval(1,2) sweep.metric=kl_bpd", "sweep.metric=kl_bpd: "),
        ("optim.lr=interval(1,2) trainer.fast_dev_run=true", "trainer.fast_dev_run=true"),
        (
            "optim.lr=interval(1,2) schedule=linear,cosine loss=simple,vlb variance=learned_range",
            "4 of the 8 runs of this sweep",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused(run, line, names):
    with pytest.raises(UserError) as refused:
        run(line)
    first, *others = names.split("|")
    assert str(refused.value).startswith(first)
    assert all(name in str(refused.value) for name in others)
    assert not Path("outputs").exists()


def test_an_interval_without_a_search(run):
    with pytest.raises(UserError, match=r"^optim\.lr=interval\(1,2\): an interval has no end of values; .* sweep=search$"):
        preflight(["-m", "optim.lr=interval(1,2)"])
    with pytest.raises(UserError, match=r"lists several values: add -m"):
        preflight(["optim.lr=interval(1,2)"])


def test_without_the_package_it_says_what_to_install(run, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *of: None if name == "optuna" else real(name, *of))
    with pytest.raises(
        UserError, match=r"^sweep=search: the package optuna is not installed: pip install 'ddpm-lab\[search\]'$"
    ):
        run(SPACE)
