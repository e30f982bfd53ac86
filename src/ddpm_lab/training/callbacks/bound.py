"""The likelihood of validation data by the model's own meter: of a diffusion model the variational bound, term by term."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tqdm import tqdm

from ddpm_lab import ranks
from ddpm_lab.domains import NonNegativeInt, PositiveInt, checked
from ddpm_lab.errors import UserError
from ddpm_lab.metrics.record import Result, record
from ddpm_lab.models.contract import Meter
from ddpm_lab.training.results import Parts, log, log_picture, log_table, numerics, parts


@checked
class VLBTerms(Callback):
    """Scalars to the loggers; every term, with its standard error, to vlb_terms.npz and vlb_terms.png. The .npz also has each
    datum's sum of what was measured of it, and its L_T: two runs that measured the same data can be paired over them.

    A stride beyond T counts as T. x̂_0 of images is clipped to [−1, 1], as in Ho's evaluation. The measured model is the
    average where there is one.
    """

    def __init__(self, stride: PositiveInt = 20, final_stride: PositiveInt = 1, seed: NonNegativeInt = 0) -> None:
        self.stride, self.final_stride, self.seed = stride, final_stride, seed

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module, data = parts(trainer, pl_module)
        n, terms = len(data.val_images), module.model.bound_terms
        if n < 2:
            raise UserError(f"validation data: the bound's standard error needs at least 2, and there are {n}: hold out more.")
        for name in ("stride", "final_stride"):
            if 2 * min(getattr(self, name), terms) > n:
                raise UserError(
                    f"callbacks.vlb_terms.{name}={getattr(self, name)} needs at least {2 * min(getattr(self, name), terms)} "
                    f"validation data, two for each t, and there are {n}: use {name}={n // 2} or less, or hold out more."
                )

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module, _ = parts(trainer, pl_module)
        self._meter = module.eval_model.bound_meter(self.stride, self.seed)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any) -> None:
        self._meter.add(batch.x0.to(pl_module.dtype), batch.first)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._meter.gather()
        bound = self._meter.result()
        scalars = {"bound_bpd": bound.total_bpd} | {part.key: part.value for part in self._meter.parts()}
        log(trainer, {f"val/{key}": value for key, value in scalars.items()} | {"val/bound_se": bound.total_se})
        self._save(trainer, self._meter, "val")

    def final(self, trainer: Trainer, pl_module: LightningModule) -> list[Result]:
        """The bound at full strength, for the final table."""
        measured = parts(trainer, pl_module)
        module, data = measured
        meter = module.eval_model.bound_meter(self.final_stride, self.seed)
        for batch in tqdm(data.val_dataloader(), desc="Bound on validation data", leave=False, disable=ranks.rank() > 0):
            meter.add(batch.x0.to(module.device, module.dtype), batch.first)
        meter.gather()
        self._save(trainer, meter, "final")
        return self._results(trainer, measured, meter)

    def _results(self, trainer: Trainer, measured: Parts, meter: Meter) -> list[Result]:
        (module, data), bound = measured, meter.result()
        of_data: dict[str, Any] = {"unit": "bits/dim", "n": bound.n, "split": "val", "data_sha256": data.state_dict()["sha256"]}
        how: dict[str, Any] = {
            "seed": self.seed,
            "weights": module.weights,
            "step": trainer.global_step,
            "stride": bound.stride,
        }
        of_bound = record(**of_data, **how, **numerics(module), **module.model.bound_record())  # type: ignore[arg-type]
        label = f"bits/dim, {meter.label} ({bound.n} validation data, {module.weights})"
        results = [Result("bound_bpd", label, bound.total_bpd, bound.total_se, of_bound)]
        if (known := data.known_bpd()) is not None:
            label = "the same data under their own density"
            results.append(Result("known_bpd", label, known, None, record(**of_data), level=1))
        return results + [Result(part.key, part.label, part.value, part.se, of_bound, level=1) for part in meter.parts()]

    def _save(self, trainer: Trainer, meter: Meter, stage: str) -> None:
        with ranks.by_first():
            if ranks.rank() == 0:
                self._write(trainer, meter, stage)

    def _write(self, trainer: Trainer, meter: Meter, stage: str) -> None:
        folder, arrays, total = Path(trainer.default_root_dir), meter.arrays(), meter.result().total_bpd
        data = trainer.datamodule  # type: ignore[attr-defined]
        measurement = {"seed": self.seed, "step": trainer.global_step, "data_sha256": data.state_dict()["sha256"]}
        np.savez(folder / "vlb_terms.npz", **arrays, **measurement)
        plot(arrays, total, trainer.global_step, folder / "vlb_terms.png")
        log_picture(trainer, f"{stage}/vlb_plot", folder / "vlb_terms.png")
        columns = [torch.as_tensor(arrays[key]).tolist() for key in ("times", "terms_bpd", "terms_se", "terms_n")]
        log_table(
            trainer, f"{stage}/vlb_terms", ["t", "bits/dim", "standard error", "n"], list(map(list, zip(*columns, strict=True)))
        )


def plot(arrays: dict[str, Any], total_bpd: float, step: int, path: Path) -> None:
    """Each term against t, both on log scales, and what of the bound lies at or below t."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    times, terms, errors = (np.asarray(arrays[key]) for key in ("times", "terms_bpd", "terms_se"))
    low = np.maximum(terms - errors, 1e-12) if (terms > 0).all() else terms - errors
    left.fill_between(times, low, terms + errors, alpha=0.3, linewidth=0)
    left.plot(times, terms, marker="o" if len(times) < 30 else None, markersize=3)
    left.set(xscale="log", xlabel="t", ylabel="bits/dim", title="terms: L_0 at t = 1, then L_(t−1); ± standard error")
    if (terms > 0).all():
        left.set_yscale("log")
    right.plot(times, np.cumsum(terms))
    right.axhline(total_bpd, linestyle=":", color="gray")
    right.set(xscale="log", xlabel="t", ylabel="bits/dim", title=f"sum up to t; all: {total_bpd:.3f} at step {step}")
    figure.savefig(path, dpi=110)
