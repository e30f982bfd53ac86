"""The contract of a sweep that is continued, docs/sweeps.md: what the same command means, and what another one does."""

from pathlib import Path

import pytest
from pretend_sweep import only, starts, states

from ddpm_lab.errors import UserError


def place(name: str) -> Path:
    return Path("outputs/multirun") / name


def test_numbers_follow_the_command_with_the_last_key_changing_first(run):
    assert run("schedule=linear,cosine seed=5,3")[0] == 0
    words = [starts(only(), number)[0]["words"][:2] for number in range(4)]
    assert words == [[f"schedule={s}", f"seed={n}"] for s in ("linear", "cosine") for n in (5, 3)]


def test_another_order_and_another_way_to_start_are_the_same_sweep_and_numbers_stay(run):
    assert run("seed=1,2 loss=simple schedule=linear", _1="fail")[0] == 1
    folder = only()
    assert run("schedule=linear seed=2,1 sweep.n_jobs=2 sweep.show=true launcher=local")[0] == 0  # loss=simple is the default
    assert only() == folder
    assert [len(starts(folder, number)) for number in range(2)] == [1, 2]
    assert "seed=2" in starts(folder, 1)[1]["words"]


@pytest.mark.parametrize("values", ["1,2,3", "1"])
def test_more_or_fewer_values_are_another_sweep_that_takes_nothing_over(run, values):
    assert run("seed=1,2", _1="fail")[0] == 1
    first = only()
    assert run(f"seed={values}")[0] == 0
    (second,) = set(Path("outputs/multirun").iterdir()) - {first}
    assert [len(starts(second, i)) for i in range(3)] == [int(str(i + 1) in values) for i in range(3)]
    assert states(first) == [("done", 0), ("failed", 2)]
    assert run("seed=1,2")[0] == 0
    assert [len(starts(first, i)) for i in range(2)] == [1, 2]
    assert len(list(Path("outputs/multirun").iterdir())) == 2


@pytest.mark.parametrize("values", ["1,2,3", "1"])
def test_under_a_name_they_are_refused(run, values):
    assert run("seed=1,2 sweep.name=a", _1="fail")[0] == 1
    with pytest.raises(UserError, match=r"^sweep\.name=a: outputs/multirun/a "):
        run(f"seed={values} sweep.name=a")
    assert states(place("a")) == [("done", 0), ("failed", 2)]


def test_another_root_or_another_network_is_another_sweep(run):
    for name in "ab":
        assert run(f"seed=0 sweep.name={name}")[0] == 0
    line = "seed=0 variance=beta,beta_tilde run.trained_in=outputs/multirun"
    for place_of_network in ("a", "b"):
        assert run(f"{line}/{place_of_network}/0", _1="fail")[0] == 1
    assert run(f"{line}/a/0 run.root=elsewhere")[0] == 0
    assert [len(list(Path(root, "multirun").iterdir())) for root in ("outputs", "elsewhere")] == [4, 1]


def test_a_failed_run_continues_from_its_checkpoint_if_it_has_one(run):
    assert run("seed=1,2 sweep.name=a", _0="fail", _1="fail")[0] == 1
    (place("a") / "0" / "checkpoints" / "last.ckpt").touch()
    assert run("seed=1,2 sweep.name=a")[0] == 0
    assert starts(place("a"), 0)[1]["words"] == [f"resume={place('a')}/0"]
    again = starts(place("a"), 1)[1]
    assert ("seed=2" in again["words"], again["folder_was_there"]) == (True, False)
