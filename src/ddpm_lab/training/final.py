"""The end of a run: everything measured once in full, one table, summary.json, and the paths of what was written."""

import importlib.metadata
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer

from ddpm_lab.files import SUMS
from ddpm_lab.metrics.record import Result, aligned
from ddpm_lab.training.callbacks.progress import Throughput
from ddpm_lab.training.module import TrainingModule

PACKAGES = ("ddpm-lab", "torch", "lightning", "hydra-core", "omegaconf", "numpy", "scikit-learn", "torch-fidelity")


def measure(trainer: Trainer, module: TrainingModule) -> list[Result]:
    """What every callback that has a `final` measures, in order. Lightning has moved the module to the CPU when it ended."""
    module.to(trainer.strategy.root_device)
    results: list[Result] = []
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if hasattr(callback, "final"):
            results += callback.final(trainer, module)
    return results


def peak_memory(device: torch.device) -> float:
    """MiB that this process held at most: on the GPU that it used, else of the machine's memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def summary(trainer: Trainer, module: TrainingModule, results: list[Result], started: float, memory: float) -> dict[str, Any]:
    """summary.json: the metrics with their records, and what is needed to know where they come from. `memory`: the most MiB
    that one of the processes held."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    speed = next((callback for callback in callbacks if isinstance(callback, Throughput)), None)
    return {
        "metrics": {
            result.key: {"value": result.known}
            | ({} if result.known_se is None else {"standard_error": result.known_se})
            | result.record
            for result in results
        },
        "step": trainer.global_step,
        "images_seen": speed.images if speed else None,
        "images_per_s": round(speed.images / speed.seconds, 1) if speed and speed.seconds else None,
        "train_seconds": round(speed.seconds, 1) if speed else None,
        "wall_seconds": round(time.time() - started, 1),
        "peak_memory_mib": round(memory, 1),
        "seed": module.model.seed,
        "weights": module.weights,
        "parameters": sum(p.numel() for p in module.model.net.parameters()),
        "device": str(module.device),
        "torch_threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "git_revision": git_revision(),
    }


def table(results: list[Result], summary: dict[str, Any]) -> list[str]:
    """Lines of the final table."""
    shown = {
        "images_seen": ("images seen", "{:,}"),
        "images_per_s": ("throughput in training", "{:,.0f} images/s"),
        "wall_seconds": ("wall time", "{:,.0f} s"),
    }
    facts = [(label, form.format(summary[key])) for key, (label, form) in shown.items() if summary[key] is not None]
    lines, width = aligned(results, facts)
    rule = "─" * (width + 10)
    return [rule, *lines, rule]


def written(run_dir: Path) -> list[str]:
    """A line per kind of file in the run folder."""
    notes = {
        "config.yaml": "the whole configuration",
        "checkpoints": f"{_kinds(run_dir / 'checkpoints')}; continue with resume=, open with ddpm_lab.load()",
        "samples": f"pictures: {_kinds(run_dir / 'samples')}",
        "metrics.csv": "one row per logged step",
        "tensorboard": "curves and pictures; look with tensorboard --logdir",
        "wandb": "what Weights & Biases keeps; send an offline run with wandb sync",
        "curves.json": "curves that describe the model, for compare.py",
        "vlb_terms.npz": "every term of the bound",
        "vlb_terms.png": "the same as a plot",
        "summary.json": "the table above, with how each number was measured",
        "train.log": "what was printed here, with times",
        SUMS: "the sha256 of what compare.py reads",
    }
    return [f"  {run_dir / name!s:<60} {note}" for name, note in notes.items() if (run_dir / name).exists()]


def _kinds(folder: Path) -> str:
    """What the files of a folder are called, once each: without suffix, and without the number of a step."""
    return ", ".join(sorted({path.stem.rstrip("0123456789").rstrip("_") for path in folder.glob("[!.]*.*")}))


def git_revision() -> str | None:
    """Commit of the code that ran, with "+changes" where files differ from it; None outside a repository."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", here, *arguments], capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "final.py")  # or the repository is another's that holds an installed copy
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
