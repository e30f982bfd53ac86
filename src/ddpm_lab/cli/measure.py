"""The measuring of `python evaluate.py`: every choice in turn, then tables, files and pictures."""

import logging
import os
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from omegaconf import DictConfig, OmegaConf

from ddpm_lab.compose import instantiate
from ddpm_lab.errors import UserError
from ddpm_lab.evaluation.build import choice_of, sampler_of, subject_of
from ddpm_lab.evaluation.evaluate import Evaluated, evaluate
from ddpm_lab.evaluation.plots import plot_bound, plot_sweep
from ddpm_lab.evaluation.quality import SPOKEN
from ddpm_lab.evaluation.report import (
    comparable,
    lines,
    markdown,
    score_of,
    sweep_table,
    tell,
    write_csv,
    write_gamma,
    write_json,
    write_terms,
)
from ddpm_lab.evaluation.subject import Subject
from ddpm_lab.training import ranks


def measure(arms: Sequence[DictConfig]) -> None:
    """All of them, those of one network together."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("ddpm_lab").setLevel(logging.INFO)
    _meet(arms[0])
    try:
        _measure_all(arms)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()  # or its threads may abort a process that ends


def _measure_all(arms: Sequence[DictConfig]) -> None:
    stamp = ranks.agreed(datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
    networks: dict[tuple[str, str | None], list[DictConfig]] = {}
    for cfg in arms:
        networks.setdefault((cfg.checkpoint, cfg.weights), []).append(cfg)
    for of_one in networks.values():
        _measure_one(of_one, stamp)


def _meet(cfg: DictConfig) -> None:
    """Under torchrun: processes share the work, and each finds what the others did on the disk."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        if _device(cfg).type == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("gloo")  # what is exchanged is small


def _device(cfg: DictConfig) -> torch.device:
    there = torch.cuda.is_available()
    if cfg.device == "cuda" and not there:
        raise UserError("device=cuda: torch finds no CUDA device here; use device=cpu")
    if cfg.device == "cpu" or not there:
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def _measure_one(arms: Sequence[DictConfig], stamp: str) -> None:
    started, first = time.time(), arms[0]
    subject = subject_of(first, _device(first))
    samplers = [sampler_of(cfg, subject) for cfg in arms]  # every mistake before any long work
    extractors = {_text(cfg.metrics): instantiate(cfg, "metrics", data=subject.data) for cfg in arms}
    folder = Path(first.folder) / "eval" / (first.name or stamp)
    with ranks.by_first():
        if ranks.rank() == 0:
            _new(folder, first)
    _print([str(folder), f"  {subject.told}", *(f"  {note}" for note in subject.data.notes)])
    found: list[Evaluated] = []
    for i, (cfg, sampler) in enumerate(zip(arms, samplers, strict=True)):
        if len(arms) > 1:
            about = f"sampler {cfg.names.sampler}, {len(sampler.chain(subject.run.diffusion.schedule))} steps"
            _print([f"{i + 1} of {len(arms)}: {about}, variance {cfg.names.variance}"])
        choice = choice_of(cfg, subject, sampler)
        found.append(evaluate(subject, choice, extractors[_text(cfg.metrics)], cfg.nll, cfg.quality, folder))
        if ranks.rank() == 0:
            _print(lines(found[-1].results, brief=len(arms) > 1))
            _keep(found, subject, first, folder)
    if ranks.rank() == 0:
        _show(found, folder, first)
        _print([f"{time.time() - started:,.0f} s; written to {folder}:", *_written(folder)])


def _text(node: Any) -> str:
    return OmegaConf.to_yaml(node)


def _new(folder: Path, cfg: DictConfig) -> None:
    """Made; one of the same name is written over, as its numbers are those of the same network."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(cfg, folder / "config.yaml")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}), and results go there") from error


def _keep(found: Sequence[Evaluated], subject: Subject, cfg: DictConfig, folder: Path) -> None:
    """After every choice: a stop loses none of those before it."""
    about = {"checkpoint": cfg.checkpoint, "weights": subject.run.weights, "step": subject.run.step, "seed": subject.seed}
    write_json(found, about, folder / "evaluation.json")
    write_csv(found, folder / "evaluation.csv")
    arm = found[-1]
    if arm.choice.gamma is not None:
        write_gamma(arm.choice.gamma, folder / "gamma.csv")
    for bound in arm.bounds.values():
        steps = len(bound.times)
        title = f"{steps} steps, σ²: {arm.choice.variance_name}"
        plot_bound(bound, title, folder / f"bound_{steps}_{arm.choice.variance_name}.png".replace("/", "_"))
        write_terms(bound, folder / f"bound_{steps}_{arm.choice.variance_name}.csv".replace("/", "_"))


def _show(found: Sequence[Evaluated], folder: Path, cfg: DictConfig) -> None:
    """The table over choices, on the console, as a file, and for the loggers."""
    if len(found) > 1:
        told = []
        for what in ("bound", "fd"):
            groups = comparable(found, what)
            for group in groups:
                told += ["", _title(group[0], what), "", *markdown(sweep_table(group, what))]
            if len(groups) > 1:
                told += ["", "(In tables of their own: numbers that were not measured alike. Their records say how.)"]
        (folder / "table.md").write_text("\n".join(told[1:]) + "\n", encoding="utf-8")
        _print([*told, ""])
        plot_sweep(found, folder / "sweep.png")
    tell(instantiate(cfg, "logger", run_dir=Path(cfg.folder)), found, folder)


def _title(arm: Evaluated, what: str) -> str:
    result = score_of(arm, what)
    assert result is not None
    if what == "fd":
        return result.label
    return f"bits/dim, bound on the sampler's chain ({result.record['n']} {SPOKEN[result.record['data']]} data)"


def _written(folder: Path) -> list[str]:
    notes = {
        "evaluation.json": "every number with its record", "evaluation.csv": "the same as a table",
        "table.md": "the choices side by side",
        "sweep.png": "the same as a plot", "bound_*.png": "terms, rate and distortion", "bound_*.csv": "every term",
        "gamma.csv": "Γ and the variance of x_0 given x_t",
        "samples_*.png": "samples",
    }  # fmt: skip
    return [f"  {name:<16} {note}" for name, note in notes.items() if any(folder.glob(name))]


def _print(told: Sequence[str]) -> None:
    if ranks.rank() == 0:
        print("\n".join(told), flush=True)
