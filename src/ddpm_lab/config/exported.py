"""`convert.py ckpt=RUN to=CODE`: a run as files for other code."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from safetensors.torch import save

from ddpm_lab.compare.choices import UNKNOWN
from ddpm_lab.config.build import load
from ddpm_lab.config.instantiate import node
from ddpm_lab.config.resume import located
from ddpm_lab.config.signature import parameters
from ddpm_lab.config.trained import training_command
from ddpm_lab.core import schedule as schedules
from ddpm_lab.core.sampler import DDIM, Ancestral, Sampler
from ddpm_lab.errors import UserError
from ddpm_lab.files import new_whole, sha256, write_bytes, write_json, write_text
from ddpm_lab.interop.card import Card, numbers_of, picture_of, text
from ddpm_lab.interop.layout import write_weights
from ddpm_lab.interop.outgoing import counted_from_0, openai_script, unet2d
from ddpm_lab.interop.recognise import LAYOUTS
from ddpm_lab.interop.scheduler import formula, scheduler
from ddpm_lab.interop.source import STEM
from ddpm_lab.models.checkpoint import write_archive
from ddpm_lab.models.contract import named
from ddpm_lab.models.diffusion import Diffusion
from ddpm_lab.models.networks import alone, path_of
from ddpm_lab.models.portable import write_portable
from ddpm_lab.models.run import Run
from ddpm_lab.nets.unet import UNet

SIGMA_SMALL = {"beta": False, "beta_tilde": True, "learned_range": False}
"""sigma_small of OpenAI's scripts, by the variance."""


class Prepared(NamedTuple):
    """What is to be written to a folder, looked at."""

    write: Callable[[Path], None]
    notes: list[str]
    """Sentences of the card: how to use it, and what differs there."""
    use: Mapping[str, str] = MappingProxyType({})
    """As `Card.use`."""


def export(ckpt: str, to: str, out: str | None, weights: str | None) -> list[str]:
    """Writes the folder; returns lines to print. Raises UserError before anything is written for what that code cannot have."""
    if to not in KINDS:
        raise UserError(f"to={to}: allowed is {', '.join(KINDS)}")
    checkpoint, folder = located(Path(ckpt).expanduser(), "ckpt")
    place = Path(out).expanduser() if out is not None else (folder or checkpoint.parent) / "exported" / to
    run = load(checkpoint, weights)
    if run.config.get("base") is not None:
        raise UserError(f"ckpt={ckpt}: a head, whose network is that of another run: give ckpt={run.config['base']}")
    prepared = KINDS[to](run)
    card = _card(run, to, checkpoint, folder, prepared)
    with new_whole(place, "out") as partial_folder:
        prepared.write(partial_folder)
        if card.picture is not None:
            write_bytes(partial_folder / "samples.png", card.picture.read_bytes())
        write_text(partial_folder / "README.md", text(card))
    step = f", step {run.step}" if run.step or "imported" not in run.config else ""
    return [str(place), f"{run.described_weights} weights{step}, of {checkpoint}", *prepared.notes]


def _card(run: Run, to: str, checkpoint: Path, folder: Path | None, prepared: Prepared) -> Card:
    imported = "imported" in run.config
    return Card(
        to=to,
        use=prepared.use,
        config={group: value for group, value in run.config.items() if not (imported and group in UNKNOWN)},
        weights=run.described_weights,
        step=run.step,
        checkpoint_sha256=sha256(checkpoint),
        command=None if imported else training_command(run.config),
        notes=prepared.notes,
        numbers=[] if folder is None else numbers_of(folder),
        picture=None if folder is None else picture_of(folder),
    )


def _diffusers(run: Run) -> Prepared:
    model, net = _unet(run, "diffusers")
    unet = unet2d(net, run.config["net"].get("head_width"))
    diffusion = model.diffusion
    choices = named(diffusion.prediction), named(diffusion.variance), diffusion.clips_x0(model.sampler.clip)
    T, sampler = diffusion.schedule.T, model.sampler
    steps = scheduler(schedule_of(run.config, diffusion.schedule), T, *choices, sampler.spacing)
    tensors = write_weights(LAYOUTS["diffusers"], counted_from_0(net))
    index = {"scheduler": ["diffusers", "DDPMScheduler"], "unet": ["diffusers", "UNet2DModel"]}

    def write(folder: Path) -> None:
        write_json(folder / "model_index.json", {"_class_name": "DDPMPipeline", **index})
        write_json(folder / "unet" / "config.json", unet)
        write_json(folder / "scheduler" / "scheduler_config.json", steps)
        write_bytes(folder / "unet" / f"{STEM}.safetensors", save(tensors, {"format": "pt"}))

    use, notes = drawn(sampler, T, steps)
    return Prepared(write, [*_shifted(net), *notes, *_of_scheduler(steps)], use)


def schedule_of(config: dict[str, Any], schedule: schedules.NoiseSchedule) -> dict[str, Any]:
    """As diffusers is told it: by a formula where it has the same, else by the table of β."""
    target, values = node(config, "schedule")
    known = None
    if getattr(schedules, option := target.__name__, None) is target:
        known = formula(option, {name: parameter.default for name, parameter in parameters(target).items()} | values)
    return known or {"trained_betas": schedule.betas.tolist()}


def drawn(sampler: Sampler[Any], T: int, steps: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """How diffusers draws what is nearest to the run's sampler, and in what it differs."""
    n, known = sampler.steps or T, steps["variance_type"] != "learned_range" and steps.get("beta_schedule") != "sigmoid"
    settings = {"steps": n, "spacing": sampler.spacing, **sampler.settings}
    notes = [f"Here samples are drawn by {type(sampler).__name__}, {', '.join(f'{k}={v}' for k, v in settings.items())}."]
    by_ddim = isinstance(sampler, DDIM) and known
    arguments: dict[str, Any] = {"num_inference_steps": T if _noisy_last(steps) and not by_ddim else n}
    if by_ddim:
        arguments |= {"eta": settings["eta"], "use_clipped_model_output": True}
    elif not isinstance(sampler, Ancestral):
        notes.append("In its place `DDPMPipeline` draws ancestral samples.")
    elif known:
        notes.append("DDIM there is that here where it is given use_clipped_model_output=True.")
    if sampler.spacing != steps["timestep_spacing"] or (T % n and (by_ddim or sampler.spacing != "linspace")):
        notes.append(f"The times of these {n} of {T} steps are others there: timestep_spacing={steps['timestep_spacing']}.")
    elif by_ddim and sampler.spacing == "linspace" and n < T:
        notes.append(f"A step of `DDIMScheduler` leads {T // n} times down, which is not to the next of linspace.")
    if "max_last_noise" in settings:
        notes.append("diffusers has no max_last_noise.")
    pipeline = "DDIMPipeline" if by_ddim else "DDPMPipeline"
    return {"pipeline": pipeline, "arguments": ", ".join(f"{k}={v}" for k, v in arguments.items())}, notes


def _noisy_last(steps: Mapping[str, Any]) -> bool:
    """Whether `DDPMScheduler` adds noise in the last of few steps."""
    return (steps["variance_type"], steps["timestep_spacing"]) == ("fixed_large", "trailing")


def _of_scheduler(steps: dict[str, Any]) -> list[str]:
    notes = [
        "The first step's variance of Ho et al., which counts in bits/dim alone, is not in `DDPMScheduler`.",
    ]
    if "trained_betas" in steps:
        notes.append(
            "No beta_schedule of diffusers is this schedule: trained_betas has its β, rounded to float32 when it is read."
        )
    if steps.get("beta_schedule") == "sigmoid":
        notes.append("`DDIMScheduler` has no beta_schedule sigmoid; `DDPMScheduler` has.")
    if _noisy_last(steps):
        notes.append(
            "In fewer steps than all `DDPMScheduler` adds noise in its last step, which is done neither here nor by "
            "`DDIMScheduler`: in 50 of the 1000 steps of the linear schedule of standard deviation 0.08, seen in the images."
        )
    if steps["variance_type"] == "learned_range":
        notes.append("The network gives a variance too, which of diffusers' schedulers `DDPMScheduler` alone expects.")
    return notes


def _openai(run: Run) -> Prepared:
    model, net = _unet(run, "openai")
    diffusion = model.diffusion
    T, prediction, variance = diffusion.schedule.T, named(diffusion.prediction), named(diffusion.variance)
    code, arguments = openai_script(net, T)
    for group, option, allowed in (("prediction", prediction, ["eps", "x0"]), ("variance", variance, list(SIGMA_SMALL))):
        if option not in allowed:
            raise UserError(f"to=openai: {group}={option}: allowed is {', '.join(allowed)}")
    if SIGMA_SMALL[variance] and code == "guided-diffusion":
        raise UserError("to=openai: variance=beta_tilde: allowed is beta, learned_range: guided-diffusion has no sigma_small")
    arguments |= {
        "learn_sigma": variance == "learned_range",
        "diffusion_steps": T,
        "noise_schedule": _openai_schedule(diffusion.schedule),
        "predict_xstart": prediction == "x0",
        **({"sigma_small": SIGMA_SMALL[variance]} if code == "improved-diffusion" else {}),
    }
    tensors = write_weights(LAYOUTS["improved_diffusion"], counted_from_0(net))
    typed = " ".join(f"--{name} {value}" for name, value in arguments.items())
    said = f"Arguments of the scripts of {code} that make this network: `{typed}`"
    return Prepared(lambda folder: write_archive(tensors, folder / "model.pt"), [said, *_shifted(net)])


def _openai_schedule(schedule: schedules.NoiseSchedule) -> str:
    T = schedule.T
    known = {"cosine": schedules.cosine(T), **({"linear": schedules.linear(T, rescale=True)} if T >= 20 else {})}
    for name, same in known.items():
        if torch.equal(schedule.alphas_bar, same.alphas_bar):
            return name
    raise UserError(
        "to=openai: schedule: another table than their two: allowed is schedule=cosine, or schedule=linear with "
        "schedule.rescale=true, or T=1000, all with their defaults"
    )


def _safetensors(run: Run) -> Prepared:
    model = run.model
    others: dict[str, Any] = {"config": run.config, "shape": [*model.shape], "levels": model.levels, "global_step": run.step}
    if model.classes is not None:
        others["class_counts"] = [*model.classes.counts]
    if run.solved_from is not None:
        others["solved_from"] = run.solved_from
    content = run.net.state_dict(), run.weights, others
    return Prepared(lambda folder: write_portable(*content, folder / "model.safetensors"), [])


KINDS = {"diffusers": _diffusers, "safetensors": _safetensors, "openai": _openai}


def _unet(run: Run, to: str) -> tuple[Diffusion, UNet]:
    if path_of(run.net) is not None:
        raise UserError(
            f"to={to}: schedule=learned: its network is told γ and not t, which that layout cannot say: to=safetensors takes it"
        )
    net = alone(run.net)
    if not isinstance(net, UNet) or not isinstance(run.model, Diffusion):
        what = type(run.model if isinstance(net, UNet) else net).__name__
        raise UserError(f"to={to}: a {what}: allowed is a diffusion model whose net is a UNet; to=safetensors takes any")
    return run.model, net


def _shifted(net: UNet) -> list[str]:
    if net.sinusoids.offset == -1:
        return []
    return [
        "That code counts t from 0, and this network was trained on t from 1: the first layer of its time embedding is "
        "multiplied by a rotation, which is exact up to rounding. Read back, that layer is the rotated one."
    ]
