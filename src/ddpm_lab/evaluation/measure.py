"""The measuring of `python evaluate.py`: every choice in turn, then tables, files and pictures."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ddpm_lab import ranks
from ddpm_lab.errors import UserError
from ddpm_lab.evaluation.check import judge, summary
from ddpm_lab.evaluation.evaluate import Arm, Evaluated, Scored, evaluate
from ddpm_lab.evaluation.plots import plot_bound, plot_lengths, plot_sweep
from ddpm_lab.evaluation.report import COMPARED, log, term_columns, write_columns, write_numbers, write_per_datum
from ddpm_lab.evaluation.tables import tables
from ddpm_lab.files import SUMS, write_sums, write_text
from ddpm_lab.metrics.record import aligned
from ddpm_lab.signals import work_begins

WRITTEN = {
    "evaluation.json": "every number with its record",
    "evaluation.csv": "the same as a table",
    "table.md": "the choices side by side",
    "sweep.png": "the same as a plot",
    "lengths.png": "scores against the length of the average",
    "bound_*.png": "terms, rate and distortion",
    "bound_*.csv": "every term",
    "per_datum_*.npz": "the bound of each datum",
    "gamma*.csv": "Γ and the variance of x_0 given x_t",
    "times_*.csv": "the times of spacing=optimal",
    "samples_*.png": "samples",
    SUMS: "the sha256 of what compare.py reads",
}


def device_of(name: str) -> torch.device:
    """`name`: auto, cpu or cuda. Under torchrun, each process has a GPU of its own. Raises UserError for an absent one."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UserError("device=cuda: torch finds no CUDA device here; use device=cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if available and name != "cpu" else torch.device("cpu")


def join(device: torch.device) -> None:
    """Under torchrun, the group of processes that share the pieces of work through the disk."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("gloo")  # messages are small


def leave() -> None:
    """Ends the group; its threads could abort a process that ends without."""
    if dist.is_initialized():
        dist.destroy_process_group()


def measure(arms: Sequence[Arm], folder: Path, config: str, logger: Callable[[dict[str, Any]], Any]) -> bool:
    """Measures every arm into one folder. `config`: its config.yaml; `logger`: made from the configuration of the run. Returns
    whether all bands of the arms hold."""
    work_begins()
    started = time.time()
    ranks.on_first(_clear, folder, config)
    _print([str(folder)])
    evaluated: list[Evaluated] = []
    scored: Scored = {}
    previous, trained = "", {}
    for i, arm in enumerate(arms):
        subject = arm.subject()
        if subject.line != previous:
            previous = subject.line
            _print([f"  {previous}", *(f"  {note}" for note in subject.data.notes)])
        if len(arms) > 1:
            metrics = f", metrics {arm.names['metrics']}" if len({arm.names.get("metrics") for arm in arms}) > 1 else ""
            _print([f"{i + 1} of {len(arms)}: {arm.line}{metrics}"])
        trained = subject.run.config
        evaluated.append(evaluate(arm, subject, folder, scored))
        if ranks.rank() == 0:
            _print(aligned([result for result in evaluated[-1].results if len(arms) == 1 or not result.level]).lines)
            _write(evaluated, folder)
    if ranks.rank() == 0:
        if len(arms) > 1:
            if text := [line for table in tables(evaluated) for line in ["", *table]]:
                write_text(folder / "table.md", "\n".join(text[1:]) + "\n")
                _print([*text, ""])
            plot_sweep(evaluated, folder / "sweep.png")
            plot_lengths(evaluated, folder / "lengths.png")
        log(logger(trained), evaluated, folder, trained)
        written = [f"  {name:<16} {note}" for name, note in WRITTEN.items() if any(folder.glob(name))]
        _print([f"{time.time() - started:,.0f} s; written to {folder}:", *written])
    holds = [_holds(arm, one) for arm, one in zip(arms, evaluated, strict=True) if arm.bands]
    return all(holds)


def _holds(arm: Arm, evaluated: Evaluated) -> bool:
    """Whether the numbers of the arm lie in its bands; says which do not."""
    judged = judge(arm.bands, {result.key: result.known for result in evaluated.results}, arm.run_folder)
    _print([f"check of {arm.line}", *(one.line for one in judged), summary(judged)])
    return all(one.holds for one in judged)


def _clear(folder: Path, config: str) -> None:
    """Makes the folder, and removes the results of an earlier evaluation of its name."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for earlier in [path for pattern in WRITTEN for path in folder.glob(pattern)]:
            earlier.unlink()
        write_text(folder / "config.yaml", config)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}), and results go there") from error


def _write(evaluated: Sequence[Evaluated], folder: Path) -> None:
    """After every choice, so that a stop loses none of those before it."""
    arm, first = evaluated[-1], evaluated[0].origin
    shared = {key: value for key, value in first.items() if all(other.origin[key] == value for other in evaluated)}
    (folder / SUMS).unlink(missing_ok=True)
    write_per_datum(arm, len(evaluated) - 1, folder)
    write_numbers(evaluated, shared, folder)
    for name, columns in arm.choice.tables.items():
        write_columns(columns, folder / f"{arm.file_name(name)}.csv")
    variance = arm.choice.names.get("variance")
    for bound in arm.bounds:
        steps = len(bound.times)
        name = arm.file_name("_".join(["bound", str(steps), *([variance] if variance else [])]))
        plot_bound(bound, f"{steps} steps" + (f", σ²: {variance}" if variance else ""), folder / f"{name}.png")
        write_columns(term_columns(bound), folder / f"{name}.csv")
    write_sums(folder, ("evaluation.json", *COMPARED))


def _print(text: Sequence[str]) -> None:
    if ranks.rank() == 0:
        print("\n".join(text), flush=True)
