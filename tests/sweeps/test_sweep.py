"""A sweep starts, watches, stops and goes on with processes: here they only pretend to train, in test_sweep_runs.py they do."""

import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from pretend_sweep import only, starts, states

import ddpm_lab.sweeps.local as local
from ddpm_lab.cli.sweep import launcher_of, plan_of
from ddpm_lab.config.options import conf_dir
from ddpm_lab.config.preflight import preflight
from ddpm_lab.errors import UserError
from ddpm_lab.sweeps.launcher import reason
from ddpm_lab.sweeps.report import Report, duration, time_left
from ddpm_lab.sweeps.state import Entry, Sweep


def test_arms_are_started_as_typed_and_told_with_their_numbers(run):
    code, printed = run("schedule=linear,cosine optim.lr=0.1 run.root=outputs")
    assert code == 0
    folder = only()
    here = ["sweep=none", "sweep.arms=[]", "launcher=local", f"run.root={folder.parent}", f"run.experiment={folder.name}"]
    for number, schedule in enumerate(("linear", "cosine")):
        (start,) = starts(folder, number)
        assert start["words"] == [f"schedule={schedule}", "optim.lr=0.1", *here, f"run.name='{number}'"]
        assert f"[{number}] schedule={schedule} …\n" in printed
        assert f"[{number}] schedule={schedule}: 3.2500 ± 0.5000 bits/dim, pixels_fd 0.7500 (" in printed
    assert "1 of 2 over, about" in printed
    assert f"\n2 of 2 done: {folder}\n" in printed
    assert printed.endswith(f"python compare.py {folder}\n")
    assert states(folder) == [("done", 0)] * 2


def test_arms_of_a_sweep_are_a_group_at_wandb_and_have_names_of_their_own(run):
    """As Hydra reads them; what is typed stays; the same command goes on with the same sweep."""
    code, _ = run("logger=wandb schedule=linear,cosine loss=simple,hybrid sweep.name='a,[b'", _3="fail")
    folder = Path("outputs/multirun/a,[b")
    words = [word for i in range(4) for word in starts(folder, i)[0]["words"] if word.startswith("logger.")]
    read: dict[str, list[str]] = {}
    for override in OverridesParser.create().parse_overrides(words):
        read.setdefault(override.key_or_group, []).append(str(override.value()))
    names = [f"schedule={schedule} loss={loss}" for schedule in ("linear", "cosine") for loss in ("simple", "hybrid")]
    assert read == {"logger.group": ["a,[b"] * 4, "logger.name": names}
    assert [arm.config.logger.name for i in range(4) for arm in preflight(starts(folder, i)[0]["words"])] == names
    assert code == 1
    assert run("logger=wandb schedule=linear,cosine loss=simple,hybrid sweep.name='a,[b'")[0] == 0
    assert [len(starts(folder, i)) for i in range(4)] == [1, 1, 1, 2]


def test_a_typed_group_or_name_stays_and_other_loggers_have_none(run):
    expected = {
        "a": ("logger=all logger.group=g", ["logger.name=seed=1"]),
        "b": ("logger=wandb logger.name=n", ["logger.group=b"]),
        "c": ("logger=csv", []),
    }
    for name, (typed, added) in expected.items():
        assert run(f"seed=1,2 {typed} sweep.name={name}")[0] == 0
        words = starts(Path("outputs/multirun") / name, 0)[0]["words"]
        assert [word.replace("'", "") for word in words[words.index("sweep=none") :] if word.startswith("logger.")] == added


def test_a_sweep_within_a_run_of_wandb_agent_is_refused(run, monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "s")
    with pytest.raises(UserError, match=r"-m.*wandb agent"):
        run("seed=1,2 logger=wandb")
    assert not Path("outputs").exists()


def test_a_failed_arm_stops_no_other_and_is_tried_again_by_the_same_command(run):
    code, printed = run("seed=1,2,3", _1="fail")
    folder = only()
    assert code == 1
    assert states(folder) == [("done", 0), ("failed", 2), ("done", 0)]
    assert f"[1] seed=2: exit code 2: error: the loss is not finite\n    {folder}/1.log\n" in printed
    assert f"\n2 of 3 done: {folder}" in printed
    code, printed = run("seed=1,2,3")
    assert (code, only()) == (0, folder)
    assert f"{folder}: 2 of 3 " in printed.splitlines()[0]
    assert [len(starts(folder, i)) for i in range(3)] == [1, 2, 1]
    assert [start["folder_was_there"] for start in starts(folder, 1)] == [False, False]  # it had no checkpoint


def test_a_complete_sweep_is_followed_by_a_new_one_and_other_arms_are_another_sweep(run):
    for line in ("seed=1,2", "seed=1,2", "seed=1", "seed=1,2 optim.lr=0.1"):
        assert run(line)[0] == 0
    assert len(list(Path("outputs/multirun").iterdir())) == 4


def test_a_name_is_one_sweep(run):
    code, printed = run("seed=1,2 sweep.name=mine", _0="fail")
    assert code == 1
    assert run("sweep.name=mine seed=2,1 sweep.n_jobs=2")[0] == 0  # the same arms, in another order
    code, printed = run("seed=1,2 sweep.name=mine")
    assert code == 0
    assert re.search(r"outputs/multirun/mine .*complete.* 2 ", printed.splitlines()[0])
    assert [len(starts(Path("outputs/multirun/mine"), i)) for i in range(2)] == [2, 1]
    with pytest.raises(UserError, match=r"^sweep\.name=mine: outputs/multirun/mine "):
        run("seed=1,3 sweep.name=mine")


def test_several_at_once_are_dealt_the_devices(run, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7,9")
    code, _ = run("seed=1,2,3 trainer=gpu sweep.n_jobs=2", _0="meet", _1="meet")
    assert code == 0
    assert [starts(only(), i)[0]["devices"] for i in range(2)] == ["4", "7"]
    assert starts(only(), 2)[0]["devices"] in ("4", "7")  # of whichever ended first
    code, _ = run("seed=1,2 trainer=gpu trainer.devices=2 sweep.n_jobs=2 sweep.name=ddp", _0="meet", _1="meet")
    assert [starts(Path("outputs/multirun/ddp"), i)[0]["devices"] for i in range(2)] == ["4,7", "9,4"]
    code, _ = run("seed=1,2 sweep.n_jobs=2 sweep.name=cpu", _0="meet", _1="meet")
    assert [starts(Path("outputs/multirun/cpu"), i)[0]["devices"] for i in range(2)] == ["4,7,9"] * 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_lets_the_arm_save_and_the_same_command_goes_on(number, run, heard):
    def send():
        while not list(Path("outputs/multirun").glob("*/0/ready")):
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    Path("outputs/multirun").mkdir(parents=True)
    thread.start()
    code, printed = run("seed=1,2", _0="wait")
    thread.join()
    folder = only()
    assert code == 128 + number
    assert states(folder) == [("stopped", 128 + (2 if number == signal.SIGINT else 15)), ("waiting", None)]
    assert "0 of 2 done" in printed.splitlines()[-1]
    assert signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL)
    code, printed = run("seed=1,2")
    assert code == 0
    assert "[0] seed=1 goes on\n" in printed
    assert starts(folder, 0)[1]["words"] == [f"resume={folder}/0"]


def test_a_signal_while_an_arm_is_started_reaches_it(run, heard, monkeypatch):
    headed = local.headed

    def headed_and_signalled(*arguments) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return headed(*arguments)

    monkeypatch.setattr("ddpm_lab.sweeps.local.headed", headed_and_signalled)
    code, _ = run("seed=1,2", _0="wait")
    assert code == 128 + signal.SIGTERM
    assert [state for state, _ in states(only())] == ["stopped", "waiting"]


def test_under_nohup_it_goes_on_when_the_terminal_closes(run, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGHUP)).start()
    monkeypatch.setattr("ddpm_lab.sweeps.runner.POLL", 0.5)
    assert run("seed=1,2")[0] == 0
    signal.signal(signal.SIGHUP, before)


def test_what_outlived_a_killed_sweep_is_waited_for_and_not_started_twice(run):
    assert run("seed=1,2", _0="fail")[0] == 1
    folder = only()
    with (folder / "0.log").open("ab") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        finish = (
            f"import time; time.sleep(4); open('{folder}/0/summary.json', 'w').write('{{\"step\": 1900, \"metrics\": {{}}}}')"
        )
        (folder / "0").mkdir(exist_ok=True)
        orphan = subprocess.Popen([sys.executable, "-c", finish], stdout=log)
    code, printed = run("seed=1,2")
    assert orphan.wait() == 0
    assert code == 0
    assert printed.count("[0] seed=1: a process of an earlier sweep") == 1
    assert len(starts(folder, 0)) == 1


def test_two_commands_do_not_work_at_one_sweep(run):
    assert run("seed=1,2", _0="fail")[0] == 1
    with (only() / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=r"another process .*sweep\.name="):
            run("seed=1,2")


def test_what_arms_print_is_in_their_logs_and_shown_if_asked_for(run):
    _, printed = run("seed=1,2", _0="fail")
    assert "error: the loss" in (only() / "0.log").read_text()
    assert "[0]   error:" not in printed
    assert "[0]   error: the loss is not finite\n" in run("seed=1,2 sweep.show=true", _0="fail")[1]


def test_trying_out_every_arm_keeps_no_run(run):
    assert run("seed=1,2 trainer.fast_dev_run=true")[0] == 0
    assert states(only()) == [("done", 0)] * 2
    assert not (only() / "0").exists()


def test_a_launcher_of_ones_own_is_built_as_any_option(tmp_path, monkeypatch):
    (tmp_path / "launcher").mkdir()
    (tmp_path / "launcher" / "mine.yaml").write_text("# ours\n_target_: my_launcher.Mine\nn: 3\n")
    (tmp_path / "my_launcher.py").write_text(
        "from ddpm_lab.sweeps.plan import Plan\n\n\nclass Mine:\n"
        "    def __init__(self, n: int, plan: Plan) -> None:\n        self.at_once = n * len(plan.runs)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    arms = preflight(["-m", f"--config-dir={tmp_path}", "launcher=mine", "seed=1,2"])
    assert launcher_of(arms, plan_of(arms, [], [tmp_path, conf_dir()])).at_once == 6


def test_torchrun_around_a_sweep_is_refused(run, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"-m.*torchrun"):
        run("seed=1,2")
    assert not Path("outputs").exists()


def test_why_a_process_ended():
    assert reason(-9, "lost") == "ended by SIGKILL"
    assert reason(2, "a\nbar 5%|error: no\nbar 6%\n") == "exit code 2: error: no"
    assert reason(1, "Traceback\n  error in\nRuntimeError: out of memory\n") == "exit code 1: RuntimeError: out of memory"
    assert reason(1, "") == "exit code 1: no output"
    assert "summary.json" in reason(0, "lines\n")
    assert [duration(s) for s in (7.4, 148, 17000)] == ["7 s", "2 min", "4.7 h"]


def test_how_much_is_left():
    d = 60.0
    assert time_left([d] * 3, [], at_once=1) == 3 * d
    assert time_left([d] * 6, [0.0], at_once=2) == 3 * d
    assert time_left([d] * 6, [], at_once=2) == 3 * d
    assert time_left([], [0.0], at_once=2) == 0
    assert time_left([], [50.0, 0.0], at_once=2) == 50
    assert time_left([d, 10.0], [20.0, 30.0], at_once=2) == 80  # 10 s after the 30


def test_runs_that_measure_are_expected_to_take_as_long_as_those_before(tmp_path):
    entries = [Entry(i, [], str(i), 1, False) for i in range(6)]  # 0 and 1 train, the others measure
    for entry, seconds, source in ((entries[0], 100.0, None), (entries[2], 10.0, 0)):
        entry.state, entry.seconds, entry.network_of = "done", seconds, source
    with Sweep(tmp_path, entries, False) as sweep:
        report = Report(sweep, 1, False, set(), 6)
        report.begin([], measured_alone=4)
        assert report._time_left([], 4) == 100 + 3 * 10
        assert report._time_left([(entries[1], 40.0)], 4) == 60 + 3 * 10
        entries[3].network_of = 0
        assert report._time_left([(entries[3], 4.0)], 4) == 6 + 100 + 2 * 10
