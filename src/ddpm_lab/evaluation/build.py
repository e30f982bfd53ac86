"""From a configuration to what is measured. With compose and cli the only code that knows Hydra or OmegaConf."""

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from ddpm_lab.config.build import instantiate, load
from ddpm_lab.core.sampler import Sampler
from ddpm_lab.data.memory import InMemory
from ddpm_lab.errors import UserError
from ddpm_lab.evaluation import gamma
from ddpm_lab.evaluation.evaluate import chains
from ddpm_lab.evaluation.likelihood import check_stride
from ddpm_lab.evaluation.store import Store
from ddpm_lab.evaluation.subject import Choice, Subject
from ddpm_lab.models.checkpoint import read_checkpoint


def subject_of(cfg: DictConfig, device: torch.device) -> Subject:
    """The network of a checkpoint with the data of its run. Raises UserError for data that are not those it was trained on."""
    checkpoint = Path(cfg.checkpoint)
    run = load(checkpoint, cfg.weights).to(device)
    data: InMemory = instantiate(OmegaConf.create(run.config), "data")  # type: ignore[arg-type]
    data.setup()
    stored = read_checkpoint(checkpoint).get(type(data).__qualname__)
    if stored is not None:
        data.load_state_dict(stored)
    store = Store(Path(cfg.folder) / "eval" / "work")
    return Subject(run, data, checkpoint, cfg.seed, cfg.batch, store)


def check_enough(cfg: DictConfig, subject: Subject, sampler: Sampler) -> None:
    """Raises UserError where there are fewer data than are asked for."""
    data, schedule = subject.data, subject.run.diffusion.schedule
    there = len(data.raw(cfg.nll.split))
    if cfg.nll.n is not None and cfg.nll.n > there:
        raise UserError(f"nll.n={cfg.nll.n}: the {cfg.nll.split} split has {there} data; null takes all")
    if cfg.nll.ode_n > there or cfg.nll.ode_n == 1:
        raise UserError(f"nll.ode_n={cfg.nll.ode_n}: allowed is 0, or 2 to the {there} data of the {cfg.nll.split} split")
    if cfg.quality.n == 1:
        raise UserError("quality.n=1: one sample has no covariance; allowed is 0 for none, or 2 and more")
    if cfg.gamma.n > len(data.raw("train")) and cfg.variance._target_.endswith(".Analytic"):
        raise UserError(f"gamma.n={cfg.gamma.n}: there are {len(data.raw('train'))} training data")
    longest = max(map(len, chains(schedule.chain(), sampler.chain(schedule), cfg.nll.chain).values()))
    check_stride(min(cfg.nll.stride, longest), there if cfg.nll.n is None else cfg.nll.n)


def sampler_of(cfg: DictConfig, subject: Subject) -> Sampler:
    """Raises UserError for a chain that the schedule does not allow."""
    sampler = instantiate(cfg, "sampler")
    try:
        sampler.chain(subject.run.diffusion.schedule)
    except ValueError as error:
        raise UserError(str(error)) from error
    return sampler


def choice_of(cfg: DictConfig, subject: Subject, sampler: Sampler) -> Choice:
    """The sampler with its variance; for the analytic one Γ is measured first, at every time that will be asked for."""
    about = _plain(cfg.variance)
    offered = {}
    if about["_target_"].endswith(".Analytic"):
        full = subject.run.diffusion.schedule.chain()
        asked = chains(full, sampler.chain(full.schedule), cfg.nll.chain)
        times = {t for chain in (*asked.values(), sampler.chain(full.schedule)) for t in chain.times}
        offered["gamma"] = gamma.measured(subject, sorted(times), cfg.gamma.n)
        about |= {"gamma": {"n": cfg.gamma.n, "split": "train"}}
    variance = instantiate(cfg, "variance", **offered)
    sampler_about = {name: value for name, value in _plain(cfg.sampler).items() if name not in ("steps", "spacing", "clip")}
    return Choice(sampler, cfg.names.sampler, sampler_about, variance, cfg.names.variance, about, offered.get("gamma"))


def logger_of(cfg: DictConfig, trained: dict[str, Any], folder: Path) -> Any:
    """The logger that was chosen, for the evaluation in `folder`. Where it goes and what it belongs to is as the run's own
    logger had it, unless it was typed; it is called after the run."""
    own, chosen = trained.get("logger", {}), cfg.logger
    if "group" in chosen:
        for key in ("project", "entity", "group", "tags"):
            chosen[key] = chosen[key] or own.get(key, chosen[key])
        chosen.name = chosen.name or f"{own.get('name') or Path(cfg.folder).absolute().name} eval/{folder.name}"
    return instantiate(cfg, "logger", run_dir=Path(cfg.folder), evaluation=True)


def _plain(node: Any) -> dict[str, Any]:
    plain = OmegaConf.to_container(node, resolve=True)
    assert isinstance(plain, dict)
    return plain  # type: ignore[return-value]
