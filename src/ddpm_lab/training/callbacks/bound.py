"""The likelihood of validation data by the model's own meter: of a diffusion model the variational bound, term by term."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, Trainer
from matplotlib.figure import Figure
from tqdm import tqdm

from ddpm_lab import ranks
from ddpm_lab.core.transfer import to_device
from ddpm_lab.domains import NonNegativeInt, PositiveInt, checked
from ddpm_lab.errors import UserError
from ddpm_lab.metrics.record import Result, record
from ddpm_lab.models.contract import Meter
from ddpm_lab.training.module import TrainingModule
from ddpm_lab.training.results import check_enough, how_measured, log, log_picture, log_table


@checked
class VLBTerms(Callback):
    """Scalars to the loggers; every term, with its standard error, to vlb_terms.npz and vlb_terms.png. The .npz also has each
    datum's sum of what was measured of it, and its L_T: two runs that measured the same data can be paired over them.

    At the end each datum is measured at every `final_stride`-th time. With `final_terms` the final bound is estimated instead:
    a pilot measures every `stride`-th time, then so many divergences of each datum are drawn where the pilot saw large ones.
    The terms in the files are those of the pilot. For as many calls of the network the error is smaller.

    A stride beyond T counts as T. x̂_0 of images is clipped to [−1, 1], as in Ho's evaluation. The measured model is the
    average where there is one.
    """

    needs = "likelihood"

    def __init__(
        self,
        stride: PositiveInt = 20,
        final_stride: PositiveInt = 1,
        seed: NonNegativeInt = 0,
        final_terms: PositiveInt | None = None,
    ) -> None:
        self.stride, self.final_stride, self.seed, self.final_terms = stride, final_stride, seed, final_terms

    def on_fit_start(self, trainer: Trainer, module: TrainingModule) -> None:
        n, terms = len(module.data.val_images), module.model.bound_terms
        check_enough(module, "the bound")
        strides = {"stride": self.stride} | ({} if self.final_terms else {"final_stride": self.final_stride})
        for name, stride in strides.items():
            if (needed := 2 * min(stride, terms)) > n:
                raise UserError(
                    f"callbacks.vlb_terms.{name}={stride} needs at least {needed} validation data, two for each t, and there "
                    f"are {n}: use {name}={n // 2} or less, or hold out more."
                )

    def on_validation_epoch_start(self, trainer: Trainer, module: TrainingModule) -> None:
        self._meter = module.eval_model.bound_meter(self.stride, self.seed)

    def on_validation_batch_end(self, trainer: Trainer, module: TrainingModule, outputs: Any, batch: Any, *_: Any) -> None:
        self._meter.add(batch.x0.to(module.dtype), batch.first, *batch.condition)

    def on_validation_epoch_end(self, trainer: Trainer, module: TrainingModule) -> None:
        self._meter.gather()
        bound = self._meter.result()
        scalars = {"bound_bpd": bound.total_bpd} | {part.key: part.value for part in self._meter.parts()}
        log(trainer, {f"val/{key}": value for key, value in scalars.items()} | {"val/bound_se": bound.total_se})
        ranks.on_first(self._write, trainer, self._meter, "val", how_measured(module, self.seed))

    def final(self, trainer: Trainer, module: TrainingModule) -> list[Result]:
        """The bound at full strength, for the final table."""
        model = module.eval_model
        if self.final_terms is None:
            meter = self._measured(module, model.bound_meter(self.final_stride, self.seed))
        else:
            pilot = self._measured(module, model.bound_meter(self.stride, self.seed))
            meter = self._measured(module, model.bound_estimator(pilot, self.final_terms, self.seed))
        how = how_measured(module, self.seed)
        ranks.on_first(self._write, trainer, meter, "final", how)
        bound = meter.result()
        of_data: dict[str, Any] = {"unit": "bits/dim", "n": bound.n, "split": "val", "data_sha256": how["data_sha256"]}
        of_data |= module.data.label_record
        of_model = {**meter.record(), **module.model.numerics(), **module.model.bound_record()}
        of_bound = record(**{**of_data, **how, **of_model})
        unguided = "without guidance, " if model.guided else ""
        label = f"bits/dim, {model.given}{unguided}{meter.label} ({bound.n} validation data, {module.weights})"
        results = [Result("bound_bpd", label, bound.total_bpd, bound.total_se, of_bound)]
        if (known := module.data.known_bpd()) is not None:
            label = "the same data under their own density"
            results.append(Result("known_bpd", label, known, None, record(**of_data), level=1))
        return results + [Result(part.key, part.label, part.value, part.se, of_bound, part.level) for part in meter.parts()]

    def _measured(self, module: TrainingModule, meter: Meter) -> Meter:
        """With all validation data."""
        for batch in tqdm(module.data.val_dataloader(), desc="Bound on validation data", leave=False, disable=ranks.rank() > 0):
            x0, *condition = (to_device(part, module.device) for part in (batch.x0, *batch.condition))
            meter.add(x0.to(module.dtype), batch.first, *condition)
        meter.gather()
        return meter

    def _write(self, trainer: Trainer, meter: Meter, stage: str, how: dict[str, Any]) -> None:
        folder, arrays, step = Path(trainer.default_root_dir), meter.arrays(), trainer.global_step
        np.savez(folder / "vlb_terms.npz", **arrays, **{name: how[name] for name in ("seed", "step", "data_sha256")})
        by_pilot = stage == "final" and self.final_terms is not None
        plot(arrays, meter.result().total_bpd, step, by_pilot, folder / "vlb_terms.png")
        log_picture(trainer, f"{stage}/vlb_plot", folder / "vlb_terms.png")
        columns = [torch.as_tensor(arrays[key]).tolist() for key in ("times", "terms_bpd", "terms_se", "terms_n")]
        rows = list(map(list, zip(*columns, strict=True)))
        log_table(trainer, f"{stage}/vlb_terms", ["t", "bits/dim", "standard error", "n"], rows)


def plot(arrays: dict[str, Any], total_bpd: float, step: int, by_pilot: bool, path: Path) -> None:
    """Each term against t, both on log scales, and what of the bound lies at or below t. `by_pilot`: the terms are those of the
    pilot of an estimate, and their sum is not `total_bpd`."""
    figure, of = Figure(figsize=(9, 3.6)), " of the pilot" if by_pilot else ""
    left, right = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.09, right=0.98, bottom=0.14, top=0.91)  # a constrained layout draws all twice
    whole = "estimate of all" if by_pilot else "all"
    times, terms, errors = (np.asarray(arrays[key]) for key in ("times", "terms_bpd", "terms_se"))
    terms, errors = (np.where(np.isfinite(x), x, np.nan) for x in (terms, errors))
    low = np.maximum(terms - errors, 1e-12) if (terms > 0).all() else terms - errors
    left.fill_between(times, low, terms + errors, alpha=0.3, linewidth=0)
    left.plot(times, terms, marker="o" if len(times) < 30 else None, markersize=3)
    left.set(xscale="log", xlabel="t", ylabel="bits/dim, ± standard error", title=f"terms{of}: L_0 at t = 1, then L_(t−1)")
    if (terms > 0).all():
        left.set_yscale("log")
    right.plot(times, np.cumsum(terms))
    if np.isfinite(total_bpd):
        right.axhline(total_bpd, linestyle=":", color="gray", label=f"{whole}: {total_bpd:.3f}")
        right.legend(frameon=False, fontsize=8)
    right.set(xscale="log", xlabel="t", ylabel="bits/dim", title=f"sum up to t{of}, step {step}")
    figure.savefig(path, dpi=110)
