"""The measuring of `python evaluate.py`: every choice in turn, then tables, files and pictures."""

import json
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from omegaconf import DictConfig, OmegaConf

from ddpm_lab import ranks
from ddpm_lab.config.build import instantiate
from ddpm_lab.core.sampler import Sampler
from ddpm_lab.errors import UserError
from ddpm_lab.evaluation.build import check_enough, choice_of, logger_of, sampler_of, subject_of
from ddpm_lab.evaluation.evaluate import Evaluated, evaluate
from ddpm_lab.evaluation.plots import plot_bound, plot_sweep
from ddpm_lab.evaluation.quality import SPOKEN, published
from ddpm_lab.evaluation.report import (
    apart,
    comparable,
    lines,
    markdown,
    score_of,
    sweep_table,
    tell,
    write_csv,
    write_gamma,
    write_json,
    write_per_datum,
    write_terms,
)
from ddpm_lab.evaluation.subject import Subject
from ddpm_lab.metrics.extractors import Extractor
from ddpm_lab.metrics.published import PublishedStats

WRITTEN = {
    "evaluation.json": "every number with its record", "evaluation.csv": "the same as a table",
    "table.md": "the choices side by side", "sweep.png": "the same as a plot", "bound_*.png": "terms, rate and distortion",
    "bound_*.csv": "every term", "per_datum_*.npz": "what each datum cost",
    "gamma*.csv": "Γ and the variance of x_0 given x_t", "samples_*.png": "samples",
}  # fmt: skip


def measure(arms: Sequence[DictConfig]) -> None:
    """All of them, those of one folder together."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("ddpm_lab").setLevel(logging.INFO)
    _meet(arms[0])
    try:
        stamp = ranks.agreed(datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
        folders: dict[Path, list[DictConfig]] = {}
        for cfg in arms:
            folders.setdefault(Path(cfg.folder) / "eval" / (cfg.name or stamp), []).append(cfg)
        network = _Network()
        prepared = {folder: [network.prepared(cfg) for cfg in of_one] for folder, of_one in folders.items()}
        for folder, of_one in prepared.items():  # every mistake was found before any long work
            _measure_into(folder, of_one, network)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()  # or its threads may abort a process that ends


class Prepared(NamedTuple):
    """One choice, all that could be refused of it looked at."""

    cfg: DictConfig
    sampler: Sampler
    steps: int
    extractor: Extractor
    stats: PublishedStats | None


class _Network:
    """The one in use: a sweep may ask for many, and the memory holds one."""

    def __init__(self) -> None:
        self._key: tuple[str, ...] = ()
        self._subject: Subject | None = None
        self._extractors: dict[tuple[str, str], Extractor] = {}

    def __call__(self, cfg: DictConfig) -> Subject:
        key = (cfg.checkpoint, str(cfg.weights), str(_device(cfg)))
        if self._subject is None or self._key != key:
            self._key, self._subject = key, subject_of(cfg, _device(cfg))
        if (self._subject.seed, self._subject.batch) != (cfg.seed, cfg.batch):
            self._subject = replace(self._subject, seed=cfg.seed, batch=cfg.batch)
        return self._subject

    def prepared(self, cfg: DictConfig) -> Prepared:
        """Raises UserError for what cannot be measured."""
        subject = self(cfg)
        sampler = sampler_of(cfg, subject)
        check_enough(cfg, subject, sampler)
        key = (subject.identity["data"], OmegaConf.to_yaml(cfg.metrics))
        if key not in self._extractors:
            self._extractors[key] = instantiate(cfg, "metrics", data=subject.data)
        extractor = self._extractors[key]
        stats = published(cfg.quality.statistics, subject, extractor) if cfg.quality.n else None
        return Prepared(cfg, sampler, len(sampler.chain(subject.run.diffusion.schedule)), extractor, stats)


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


def _measure_into(folder: Path, arms: Sequence[Prepared], network: _Network) -> None:
    started, first = time.time(), arms[0].cfg
    with ranks.by_first():
        if ranks.rank() == 0:
            _new(folder, first)
    _print([str(folder)])
    found: list[Evaluated] = []
    told, trained = "", {}
    for i, (arm, setting) in enumerate(zip(arms, settings([arm.cfg for arm in arms]), strict=True)):
        subject = network(arm.cfg)
        if told != subject.told:
            told = subject.told
            _print([f"  {told}", *(f"  {note}" for note in subject.data.notes)])
        if len(arms) > 1:
            about = [f"sampler {arm.cfg.names.sampler}", f"{arm.steps} steps", f"variance {arm.cfg.names.variance}"]
            _print([f"{i + 1} of {len(arms)}: {', '.join([*about, *filter(None, [setting])])}"])
        trained = subject.run.config
        choice, cfg = choice_of(arm.cfg, subject, arm.sampler), arm.cfg
        found.append(evaluate(subject, choice, arm.extractor, arm.stats, cfg.nll, cfg.quality, folder, setting))
        if ranks.rank() == 0:
            _print(lines(found[-1].results, brief=len(arms) > 1))
            _keep(found, folder)
    if ranks.rank() == 0:
        _show(found, folder)
        tell(logger_of(first, trained, folder), found, folder, trained)
        _print([f"{time.time() - started:,.0f} s; written to {folder}:", *_written(folder)])


def settings(arms: Sequence[DictConfig]) -> list[str]:
    """Of each, what tells it from those with the same sampler, steps and variance, as "seed=1"."""
    plain = [_leaves(OmegaConf.to_container(cfg, resolve=True)) for cfg in arms]
    names = [(cfg.names.sampler, cfg.sampler.steps, cfg.names.variance) for cfg in arms]

    def setting(i: int) -> str:
        peers = [plain[j] for j in range(len(arms)) if names[j] == names[i]]
        keys = [key for key in dict.fromkeys(key for peer in peers for key in peer) if key not in ("ckpt", "folder")]
        own = {key: plain[i].get(key) for key in keys if any(peer.get(key) != plain[i].get(key) for peer in peers)}
        own = {key: value for key, value in own.items() if f"names.{key.partition('.')[0]}" not in own}
        own |= {"checkpoint": Path(str(own["checkpoint"])).stem} if "checkpoint" in own else {}
        return " ".join(f"{key.removeprefix('names.')}={_typed(value)}" for key, value in own.items())

    return [setting(i) for i in range(len(arms))]


def _typed(value: Any) -> str:
    """As in a yaml file."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def _leaves(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {prefix.removesuffix("."): node}
    return {key: value for name, child in node.items() for key, value in _leaves(child, f"{prefix}{name}.").items()}


def _new(folder: Path, cfg: DictConfig) -> None:
    """Made; what an evaluation of the same name left there goes."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in (path for pattern in WRITTEN for path in folder.glob(pattern)):
            left.unlink()
        OmegaConf.save(cfg, folder / "config.yaml")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}), and results go there") from error


def _keep(found: Sequence[Evaluated], folder: Path) -> None:
    """After every choice: a stop loses none of those before it."""
    about = {key: value for key, value in found[0].about.items() if all(arm.about[key] == value for arm in found)}
    arm = found[-1]
    write_per_datum(arm, len(found) - 1, folder)
    write_json(found, about, folder / "evaluation.json")
    write_csv(found, folder / "evaluation.csv")
    if arm.choice.gamma is not None:
        write_gamma(arm.choice.gamma, folder / f"{arm.named('gamma')}.csv")
    for bound in arm.bounds.values():
        steps = len(bound.times)
        title = f"{steps} steps, σ²: {arm.choice.variance_name}"
        name = arm.named(f"bound_{steps}_{arm.choice.variance_name}")
        plot_bound(bound, title, folder / f"{name}.png")
        write_terms(bound, folder / f"{name}.csv")


def _show(found: Sequence[Evaluated], folder: Path) -> None:
    """The table over choices, on the console and as a file."""
    if len(found) > 1:
        told = []
        for what in ("bound", "fd"):
            groups = comparable(found, what)
            for group in groups:
                why = [] if group is groups[0] else ["", f"({apart(group, groups[0], what)})"]
                told += ["", _title(group[0], what), "", *markdown(sweep_table(group, what)), *why]
        (folder / "table.md").write_text("\n".join(told[1:]) + "\n", encoding="utf-8")
        _print([*told, ""])
        plot_sweep(found, folder / "sweep.png")


def _title(arm: Evaluated, what: str) -> str:
    result = score_of(arm, what)
    assert result is not None
    if what == "fd":
        return result.label
    return f"bits/dim, bound on the sampler's chain ({result.record['n']} {SPOKEN[result.record['data']]} data)"


def _written(folder: Path) -> list[str]:
    return [f"  {name:<16} {note}" for name, note in WRITTEN.items() if any(folder.glob(name))]


def _print(told: Sequence[str]) -> None:
    if ranks.rank() == 0:
        print("\n".join(told), flush=True)
