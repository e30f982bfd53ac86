"""`make soak`: commands that are killed at random moments and given again, until they end. Hours, so no part of the suite.

python tests/soak.py [TRIALS] [SEED]. A trial starts a command, kills its processes by SIGKILL at a random moment, and gives the
command that goes on until it ends. It is equal where weights, measured numbers and logged rows are those of an unbroken one.
"""

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from helpers import ROOT, digest, environment

from ddpm_lab.sweeps.state import finished

RUN = [
    "experiment=smoke", "trainer.max_steps=40", "trainer.validate_every=10", "trainer.log_every=3", "net.dropout=0.2",
    "schedule.T=20", "callbacks.checkpoints.last_every=4", "callbacks.vlb_terms.final_terms=4",
]  # fmt: skip
TWO = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
SWEEP = ["-m", *RUN, "schedule=linear,cosine", "sweep.name=s", "sweep.n_jobs=2"]
EVALUATION = ["ckpt=outputs/smoke/x", "name=e", "quality.n=600", "quality.grid=0", "nll.terms=4", "batch=32"]
TIMED, SECONDS = "train/images_per_s", "sampling_seconds"


def of_runs(place: Path) -> Any:
    """Of every run: weights and numbers, and the rows of metrics.csv."""
    folders = sorted(path.parent for path in (place / "outputs").rglob("summary.json"))
    rows = [list(csv.DictReader((folder / "metrics.csv").read_text().splitlines())) for folder in folders]
    return [digest(folder) for folder in folders], [{k: v for k, v in row.items() if k != TIMED} for of in rows for row in of]


def of_evaluation(place: Path) -> Any:
    arms = json.loads((place / "outputs" / "smoke" / "x" / "eval" / "e" / "evaluation.json").read_text())["arms"]
    results = [result for arm in arms for result in arm["results"] if result["key"] != SECONDS]
    return [(result["key"], result["value"], result["standard_error"]) for result in results]


class Kind(NamedTuple):
    script: str
    arguments: list[str]
    result: Callable[[Path], Any]

    def command(self, place: Path) -> list[str]:
        """To begin, or to go on."""
        has_checkpoint = (place / "outputs" / "smoke" / "x" / "checkpoints" / "last.ckpt").exists()
        arguments = ["resume=outputs/smoke/x"] if self.script == "train.py" and has_checkpoint else self.arguments
        return [sys.executable, str(ROOT / self.script), *arguments]


KINDS = {
    "one process": Kind("train.py", [*RUN, "run.name=x"], of_runs),
    "two processes": Kind("train.py", [*RUN, *TWO, "run.name=x"], of_runs),
    "sweep": Kind("train.py", SWEEP, of_runs),
    "evaluation": Kind("evaluate.py", EVALUATION, of_evaluation),
}


def processes(place: Path) -> list[int]:
    """Those that work there."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(folder / "cwd")) == place and int(folder.name) != os.getpid():
                found.append(int(folder.name))
        except OSError:  # it has ended
            continue
    return found


def killed(kind: Kind, place: Path, seconds: float, all_of_them: bool) -> bool:
    """Whether it still ran. Otherwise than all, the first process alone is killed, as a launcher of a sweep may be."""
    first = subprocess.Popen(
        kind.command(place), cwd=place, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    try:
        first.wait(seconds)
    except subprocess.TimeoutExpired:
        for pid in processes(place) if all_of_them else [first.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        first.wait()
        return True
    return False


def ended(kind: Kind, place: Path) -> str:
    """Gives the command until it ends well, at most thrice. What it printed, if it never did."""
    for _ in range(3):
        if finished(place / "outputs" / "smoke" / "x", 40) and kind.script == "train.py":  # killed after its last file
            return ""
        done = subprocess.run(kind.command(place), cwd=place, env=environment(), capture_output=True, text=True, timeout=600)
        if done.returncode == 0:
            return ""
    return done.stdout[-2000:] + done.stderr[-2000:]


def trial(kind: Kind, place: Path, whole: Any, longest: float, chance: random.Random) -> str:
    """ "equal", "not killed", or what is wrong."""
    all_of_them = kind is not KINDS["sweep"] or chance.random() < 0.5
    if not killed(kind, place, chance.uniform(0, 0.9 * longest), all_of_them):
        return "not killed"
    if printed := ended(kind, place):
        return f"did not go on: {printed}"
    return "equal" if (result := kind.result(place)) == whole else f"other numbers: {result} instead of {whole}"


def prepared(name: str, place: Path) -> Path:
    """A folder to begin in; an evaluation needs a run."""
    place.mkdir()
    if name == "evaluation":
        assert not ended(KINDS["one process"], place)
    return place


def main() -> None:
    trials, seed = (int(word) for word in [*sys.argv[1:], "100", "0"][:2])
    chance, counts = random.Random(seed), Counter()
    with tempfile.TemporaryDirectory() as root:
        start, whole, longest = {}, {}, {}
        for name, kind in KINDS.items():
            start[name] = prepared(name, Path(root, f"start of {name}"))
            place = Path(shutil.copytree(start[name], Path(root, name)))
            began = time.monotonic()
            assert not ended(kind, place)
            whole[name], longest[name] = kind.result(place), time.monotonic() - began
        for number in range(trials):
            name = list(KINDS)[number % len(KINDS)]
            place = Path(shutil.copytree(start[name], Path(root, f"trial {number}")))
            outcome = trial(KINDS[name], place, whole[name], longest[name], chance)
            counts[name, outcome] += 1
            print(f"{number + 1} of {trials}: {name}: {outcome}", flush=True)
            shutil.rmtree(place)
    for (name, outcome), count in sorted(counts.items()):
        print(f"{name:<14} {outcome.splitlines()[0][:40]:<40} {count}")
    sys.exit(any(outcome not in ("equal", "not killed") for _, outcome in counts))


if __name__ == "__main__":
    main()
