"""Runs whose training is the same: one of them trains, the others measure its network under their own choices."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from pretend_sweep import only, starts, states

LINE = "variance=beta,beta_tilde,interpolated"
"""Under loss=simple, one network."""


def sources(folder: Path) -> list[int | None]:
    return [entry["network_of"] for entry in json.loads((folder / "sweep.json").read_text())["arms"]]


def network_of(words: list[str]) -> str | None:
    """The run folder whose network a run was told to measure."""
    return next((word.partition("=")[2].strip("'") for word in words if word.startswith("run.trained_in=")), None)


def trained_in(folder: Path, number: int) -> list[str | None]:
    """For each start of a run, the number of the run whose network it was told to measure."""
    places = [network_of(start["words"]) for start in starts(folder, number)]
    assert all(place is None or Path(place).parent == folder for place in places)
    return [None if place is None else Path(place).name for place in places]


@pytest.mark.parametrize("n_jobs", [1, 3])
def test_a_network_is_trained_once(run, n_jobs):
    code, printed = run(f"{LINE} seed=0,1 sweep.n_jobs={n_jobs}")
    folder = only()
    assert code == 0
    assert [trained_in(folder, i) for i in range(6)] == [[None], [None], ["0"], ["1"], ["0"], ["1"]]
    assert sources(folder) == [None, None, 0, 1, 0, 1]
    assert "[3] variance=beta_tilde seed=1 … the network of [1]" in printed
    assert states(folder) == [("done", 0)] * 6


def test_what_training_depends_on_is_not_shared(run):
    run("schedule=linear,cosine seed=0,1 optim.lr=0.1,0.2")
    assert [trained_in(only(), i) for i in range(8)] == [[None]] * 8


def test_a_variance_that_is_trained_is_not_shared(run):
    run("loss=vlb variance=beta,learned_range")
    assert [trained_in(only(), i) for i in range(2)] == [[None]] * 2


def test_samplers_and_pictures_share_a_network(run):
    run("sampler=ancestral,ddim callbacks.samples.n=8,16")
    assert [trained_in(only(), i) for i in range(4)] == [[None], ["0"], ["0"], ["0"]]


@pytest.mark.parametrize("n_jobs", [1, 3])
def test_after_a_failure_the_next_run_trains_and_the_first_measures_its_network(run, n_jobs):
    code, _ = run(f"{LINE} sweep.n_jobs={n_jobs}", _0="fail")
    folder = only()
    assert code == 1
    assert states(folder) == [("failed", 2), ("done", 0), ("done", 0)]
    assert sources(folder) == [None, None, 1]
    assert run(LINE)[0] == 0
    assert [trained_in(folder, i) for i in range(3)] == [[None, "1"], [None], ["1"]]
    assert sources(folder) == [1, None, 1]


def test_where_all_fail_each_is_tried_once(run):
    code, _ = run(LINE, _0="fail", _1="fail", _2="fail")
    assert code == 1
    assert [trained_in(only(), i) for i in range(3)] == [[None]] * 3


def stopped(run, number: str, tasks: dict[str, str]) -> Path:
    """The sweep, after a signal that came while this run was under way."""

    def send() -> None:
        while not list(Path("outputs/multirun").glob(f"*/{number}/ready")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    Path("outputs/multirun").mkdir(parents=True)
    thread = threading.Thread(target=send)
    thread.start()
    assert run(LINE, **tasks)[0] == 128 + signal.SIGTERM
    thread.join()
    return only()


def test_a_sweep_that_was_stopped_in_training_trains_on_and_then_shares(run, heard):
    folder = stopped(run, "0", {"_0": "wait"})
    assert [starts(folder, i) for i in (1, 2)] == [[], []]
    assert run(LINE)[0] == 0
    assert starts(folder, 0)[1]["words"] == [f"resume={folder}/0"]
    assert [trained_in(folder, i) for i in (1, 2)] == [["0"], ["0"]]


def test_a_sweep_that_was_stopped_in_measuring_measures_again(run, heard):
    """A run that measures has a checkpoint, and must not train on from it."""
    folder = stopped(run, "1", {"_1": "wait"})
    assert (folder / "1" / "checkpoints" / "last.ckpt").exists()
    assert run(LINE)[0] == 0
    assert [trained_in(folder, i) for i in range(3)] == [[None], ["0", "0"], ["0"]]
    assert [start["folder_was_there"] for start in starts(folder, 1)] == [False, False]


def test_a_run_that_has_begun_to_train_goes_before_one_that_has_not(run, heard):
    folder = stopped(run, "1", {"_0": "fail", "_1": "wait"})
    assert states(folder) == [("failed", 2), ("stopped", 143), ("waiting", None)]
    assert run(LINE)[0] == 0
    assert starts(folder, 1)[1]["words"] == [f"resume={folder}/1"]
    assert [trained_in(folder, i) for i in (0, 2)] == [[None, "1"], ["1"]]


def test_without_the_checkpoint_of_the_first_the_next_trains(run):
    assert run(LINE, _1="fail", _2="fail")[0] == 1
    folder = only()
    (folder / "0" / "checkpoints" / "last.ckpt").unlink()
    assert run(LINE)[0] == 0
    assert [trained_in(folder, i) for i in range(3)] == [[None], ["0", None], ["0", "1"]]
    assert sources(folder) == [None, None, 1]


def test_trying_out_trains_nothing_and_shares_nothing(run):
    assert run(f"{LINE} trainer.fast_dev_run=true")[0] == 0
    assert [trained_in(only(), i) for i in range(3)] == [[None]] * 3


def test_a_network_that_was_named_is_measured_by_all(run, tmp_path):
    assert run("seed=0 sweep.name=first")[0] == 0
    place = Path("outputs/multirun/first/0")
    assert run(f"{LINE} run.trained_in={place} sweep.name=second")[0] == 0
    second = Path("outputs/multirun/second")
    assert [network_of(starts(second, i)[0]["words"]) for i in range(3)] == [str(place)] * 3
    assert sources(second) == [None] * 3
