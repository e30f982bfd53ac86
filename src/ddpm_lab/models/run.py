"""A trained run in Python: `ddpm_lab.load("outputs/digits/...")`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ddpm_lab.core.diffusion import GaussianDiffusion
from ddpm_lab.core.grey import scale
from ddpm_lab.core.guidance import Guidance
from ddpm_lab.core.sampler import Sampler
from ddpm_lab.core.transfer import to_device
from ddpm_lab.domains import NonNegativeInt, PositiveInt, check
from ddpm_lab.errors import UserError
from ddpm_lab.models.contract import Model
from ddpm_lab.models.diffusion import Diffusion
from ddpm_lab.models.meter import Measured
from ddpm_lab.models.snapshots import LISTED, Solver, averaged, length_of


class Run:
    """`model` (in eval mode), with its `net` and `config`; `weights` says which it has, `step` how long it was trained.
    `solved_from`: of an average that was solved, from how many others. `length`: σ_rel of an average by powers of the step, 0
    of the raw weights beside such; None of others."""

    def __init__(
        self, model: Model, weights: str, step: int, solved_from: int | None = None, length: float | None = None
    ) -> None:
        self.model, self.weights, self.step = model.eval(), weights, step
        self.solved_from, self.length = solved_from, length

    @property
    def net(self) -> nn.Module:
        return self.model.net

    @property
    def diffusion(self) -> GaussianDiffusion:
        """Of a diffusion model. Raises UserError for another model."""
        if not isinstance(self.model, Diffusion):
            raise UserError(f"this run trained {type(self.model).__name__}, which has no diffusion process")
        return self.model.diffusion

    @property
    def config(self) -> dict[str, Any]:
        return self.model.config

    @property
    def imported(self) -> str | None:
        """Of which layout it came in, where other code trained it."""
        return (self.config.get("imported") or {}).get("layout")

    @property
    def of_weights(self) -> dict[str, Any]:
        """The fields of records that say which weights it has."""
        return {"weights": self.weights} | ({} if self.solved_from is None else {"solved_from": self.solved_from})

    @property
    def described_weights(self) -> str:
        """The same in words."""
        return self.weights + ("" if self.solved_from is None else f" (solved from {self.solved_from} averages)")

    @property
    def device(self) -> torch.device:
        return self.model.device

    def to(self, device: torch.device | str) -> "Run":
        """Moves the network; returns itself."""
        self.model.to(device)
        return self

    def sample(
        self,
        n: int,
        sampler: Sampler | None = None,
        seed: int = 0,
        batch: int = 256,
        classes: Sequence[int] | None = None,
        guidance: Guidance | None = None,
    ) -> Tensor:
        """n samples, n × C × H × W in [−1, 1] (or n × D). `sampler`: that of the run, or e.g. DDIM(steps=50) from
        ddpm_lab.core.sampler. Sample i depends on (seed, i) alone. Of a conditional model its class is classes[i mod their
        number], by default drawn by the frequencies of the training data; `guidance`: that of the run, or e.g.
        ClassifierFree(2.0) from ddpm_lab.core.guidance. Raises UserError for numbers that are no counts or no classes."""
        try:
            for name, value, domain in (
                ("n", n, NonNegativeInt),
                ("seed", seed, NonNegativeInt),
                ("batch", batch, PositiveInt),
            ):
                check(name, value, domain)
            return self.model.sampling(sampler=sampler, classes=classes, guidance=guidance).sample(n, seed, batch)
        except ValueError as error:
            raise UserError(str(error)) from error

    def bound(self, images: Tensor, stride: int = 1, seed: int = 0, labels: Tensor | None = None) -> Measured:
        """The variational bound in bits/dim, by term. `images`: uint8 grey levels 0..levels−1, or floats on their grid in
        [−1, 1]; `stride` k measures each at every k-th t. `labels`: of a conditional model the class of each image. Raises
        UserError for another shape, values off the grid, and labels that are missing or no classes."""
        x0, condition = self._scaled(images), self._condition(labels, len(images))
        try:
            meter = self.model.bound_meter(stride, seed)
            for start in range(0, len(x0), 64):
                part = slice(start, start + 64)
                meter.add(to_device(x0[part], self.device), start, *(to_device(one[part], self.device) for one in condition))
            return meter.result()
        except ValueError as error:
            raise UserError(str(error)) from error

    def _condition(self, labels: Tensor | None, n: int) -> tuple[Tensor, ...]:
        """As `Batch.condition`, looked at."""
        classes = self.model.classes
        if classes is None or labels is None:
            if classes is not labels:
                needed = "none, as the model was trained without classes" if classes is None else "one for each image"
                raise UserError(f"labels={None if labels is None else tuple(labels.shape)}: allowed is {needed}.")
            return ()
        if labels.shape != (n,) or labels.is_floating_point() or labels.min() < 0 or labels.max() >= classes.null:
            raise UserError(
                f"labels of {labels.dtype} {tuple(labels.shape)}: allowed are {n} integers 0 to {classes.null - 1}."
            )
        return (labels.long(),)

    def _scaled(self, images: Tensor) -> Tensor:
        """Images in [−1, 1], looked at."""
        levels, shape = self.model.levels, self.model.shape
        if images.dtype not in (torch.uint8, torch.float32, torch.float64) or len(images) == 0:
            raise UserError(f"images: {len(images)} of {images.dtype}; allowed are uint8, float32 and float64, at least one.")
        if tuple(images.shape[1:]) != shape:
            raise UserError(f"images have shape {tuple(images.shape[1:])}; this run was trained on {shape}.")
        x0 = scale(images, levels) if images.dtype == torch.uint8 else images.float()
        if not x0.isfinite().all():
            raise UserError("images hold NaN or infinity.")
        if levels is not None:
            grid = (x0.double() + 1) * (levels - 1) / 2
            if x0.min() < -1 or x0.max() > 1 or (grid - grid.round()).abs().max() > 1e-3:
                raise UserError(f"images must lie on the {levels} grey levels in [-1, 1] that the decoder has bins for.")
        return x0


def load_weights(model: nn.Module, state: dict[str, Tensor], source: Path) -> None:
    """Raises UserError that names the first weight that does not fit."""
    here = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    there = {name: tuple(value.shape) for name, value in state.items()}
    for name in sorted(here.keys() | there.keys()):
        if here.get(name) != there.get(name):
            raise UserError(
                f"{source}: holds the weights of another network: {name} is {there.get(name, 'missing')} there and "
                f"{here.get(name, 'missing')} in the network of this configuration."
            )
    model.load_state_dict(state)


def opened(model: Model, checkpoint: Mapping[str, Any], weights: str | None, source: Path) -> Run:
    """The run of a checkpoint whose configuration made `model`. `weights` as in `ddpm_lab.load`. Raises UserError for weights
    that the checkpoint, at `source`, has not, and for those of another network."""
    averages = [key for key in checkpoint if key.startswith("ema/")]
    unknown = (checkpoint["config"].get("imported") or {}).get("weights") == "given"  # whether they are averaged
    single = "given" if unknown else "raw"
    allowed = [*(["ema"] if averages else []), *([single] if checkpoint["state_dict"] or not averages else []), *averages]
    solver, sigma_rel = solver_of(model, checkpoint, source), length_of(weights or "")
    if solver is not None and sigma_rel is not None:
        weights = f"ema/{sigma_rel}"  # as one average is called: 0.10 is 0.1
    solves = weights not in (*allowed, None)
    if solves and (solver is None or sigma_rel is None or not solver.reaches(sigma_rel)):
        others = "; other lengths are those of a run with ema=posthoc" if sigma_rel is not None else ""
        if solver is not None:
            solved = f"and, solved from {solver.count} averages, ema/L with L from {solver.range}"
            others = f"; {solved if solver.range else 'no other length of 0.001 or more can be solved from its averages'}"
        raise UserError(f"weights={weights}: this checkpoint has {', '.join(allowed)}{others}.")
    chosen = weights if weights not in ("ema", None) else averages[0] if averages else single
    state = checkpoint["state_dict"]
    if chosen != single:
        held = solver.solved(sigma_rel) if solves and solver and sigma_rel else checkpoint[chosen]
        state = {f"net.{name}": value for name, value in held.items()}
    load_weights(model, state, source)
    if not all(value.isfinite().all() for value in state.values()):
        raise UserError(f"{source}: {chosen} weights are not finite; this checkpoint has {', '.join(allowed)}")
    if _channels_last(checkpoint["config"].get("trainer") or {}):
        model.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    solved_from = solver.count if solves and solver else checkpoint.get("solved_from")
    length = (length_of(chosen) or 0.0) if solver is not None else None
    return Run(model, chosen, checkpoint["global_step"], solved_from, length)


def solver_of(model: Model, checkpoint: Mapping[str, Any], source: Path) -> Solver | None:
    """Of other lengths, where the checkpoint has averages by powers of the step."""
    return Solver(checkpoint, source, averaged(model.net)) if LISTED in checkpoint and checkpoint["global_step"] else None


def _channels_last(trainer: Mapping[str, Any]) -> bool:
    """As the run itself sampled and measured."""
    if (given := trainer.get("channels_last", False)) is not None:
        return given
    accelerator = trainer.get("accelerator", "cpu")
    if accelerator == "auto":
        accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    return prefers_channels_last(accelerator, trainer.get("precision", "32-true"))


def prefers_channels_last(accelerator: str, precision: str) -> bool:
    """Whether convolutions are faster on images as N×H×W×C in memory: but for bfloat16 on a CPU they are."""
    return not (precision == "bf16-mixed" and accelerator == "cpu")
