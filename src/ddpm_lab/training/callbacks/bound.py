"""The variational bound on validation images, term by term."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tqdm import tqdm

from ddpm_lab import ranks
from ddpm_lab.errors import UserError
from ddpm_lab.likelihood.bound import Bound, BoundMeter, Tally
from ddpm_lab.metrics.record import Result
from ddpm_lab.training.module import DiffusionModule
from ddpm_lab.training.results import log, log_picture, log_table, parts


class VLBTerms(Callback):
    """Scalars to the loggers; every term, with its standard error, to vlb_terms.npz and vlb_terms.png. The .npz also has each
    datum's sum of what was measured of it, and its L_T: two runs that measured the same data can be paired over them.

    A stride beyond T counts as T. x̂_0 of images is clipped to [−1, 1], as in Ho's evaluation. The measured network is the EMA
    where there is one.
    """

    def __init__(self, stride: int, final_stride: int, seed: int) -> None:
        self.stride, self.final_stride, self.seed = stride, final_stride, seed

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module, data = parts(trainer, pl_module)
        n, T = len(data.val_images), module.diffusion.schedule.T
        if n < 2:
            raise UserError(f"validation data: the bound's standard error needs at least 2, and there are {n}: hold out more.")
        for name in ("stride", "final_stride"):
            if 2 * min(getattr(self, name), T) > n:
                raise UserError(
                    f"callbacks.vlb_terms.{name}={getattr(self, name)} needs at least {2 * min(getattr(self, name), T)} "
                    f"validation data, two for each t, and there are {n}: use {name}={n // 2} or less, or hold out more."
                )

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module, _ = parts(trainer, pl_module)
        self._meter = self._new_meter(module, self.stride)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any) -> None:
        module, _ = parts(trainer, pl_module)
        self._meter.add(module.eval_net, batch.x0.to(module.dtype), batch.first)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module, _ = parts(trainer, pl_module)
        meter = together(self._meter)
        bound = meter.result()
        module.validation_bpd = bound.total_bpd
        log(trainer, {f"val/{key}": value for key, value in _scalars(bound).items()} | {"val/bound_se": bound.total_se})
        self._save(trainer, bound, meter.tally, "val")

    def final(self, trainer: Trainer, pl_module: LightningModule) -> list[Result]:
        """The bound at full strength, for the final table."""
        module, data = parts(trainer, pl_module)
        meter = self._new_meter(module, self.final_stride)
        for batch in tqdm(data.val_dataloader(), desc="Bound on validation data", leave=False, disable=ranks.rank() > 0):
            meter.add(module.eval_net, batch.x0.to(module.device, module.dtype), batch.first)
        bound = together(meter).result()
        self._save(trainer, bound, meter.tally, "final")
        record = {
            "unit": "bits/dim", "split": "validation", "n": bound.n, "stride": bound.stride, "T": len(bound.times),
            "seed": self.seed, "weights": module.weights, "clip": meter.clip,
            "variance": type(module.diffusion.variance).__name__,
            "tf32": module.device.type == "cuda" and torch.backends.cudnn.allow_tf32,
        }  # fmt: skip
        labels = {
            "bound_bpd": f"bits/dim, variational bound ({bound.n} validation data, {module.weights})",
            "prior_bpd": "    L_T, prior",
            "kl_bpd": f"    L_1 .. L_{len(bound.times) - 1}, divergences",
            "decoder_bpd": "    L_0, decoder",
        }
        errors = {"bound_bpd": bound.total_se, "decoder_bpd": float(bound.terms_se[0])}
        results = [Result(k, labels[k], v, errors.get(k), record) for k, v in _scalars(bound).items()]
        if (known := data.known_bpd()) is not None:
            about = {"unit": "bits/dim", "split": "validation", "n": bound.n}
            results.insert(1, Result("known_bpd", "    the same data under their own density", known, None, about))
        return results

    def _new_meter(self, module: DiffusionModule, stride: int) -> BoundMeter:
        diffusion = module.diffusion
        return BoundMeter(diffusion, diffusion.chain, min(stride, len(diffusion.chain)), self.seed)

    def _save(self, trainer: Trainer, bound: Bound, tally: Tally, stage: str) -> None:
        with ranks.by_first():
            if ranks.rank() == 0:
                self._write(trainer, bound, tally, stage)

    def _write(self, trainer: Trainer, bound: Bound, tally: Tally, stage: str) -> None:
        folder, order = Path(trainer.default_root_dir), tally.index.argsort()
        data = trainer.datamodule  # type: ignore[attr-defined]
        np.savez(
            folder / "vlb_terms.npz", times=np.array(bound.times), terms_bpd=bound.terms_bpd, terms_se=bound.terms_se,
            terms_n=bound.terms_n, prior_bpd=bound.prior_bpd, n=bound.n, seed=self.seed, step=trainer.global_step,
            per_datum_bpd=tally.per_datum[order], per_datum_prior_bpd=tally.priors[order], index=tally.index[order],
            stride=bound.stride, data_sha256=data.state_dict()["sha256"],
        )  # fmt: skip
        _plot(bound, trainer.global_step, folder / "vlb_terms.png")
        log_picture(trainer, f"{stage}/vlb_plot", folder / "vlb_terms.png")
        columns = [list(bound.times), bound.terms_bpd.tolist(), bound.terms_se.tolist(), bound.terms_n.tolist()]
        log_table(
            trainer, f"{stage}/vlb_terms", ["t", "bits/dim", "standard error", "n"], list(map(list, zip(*columns, strict=True)))
        )


def together(meter: BoundMeter) -> BoundMeter:
    """The meter, with what every process has measured."""
    meter.tally = functools.reduce(Tally.plus, ranks.gather(meter.tally))
    return meter


def _scalars(bound: Bound) -> dict[str, float]:
    return {
        "bound_bpd": bound.total_bpd,
        "prior_bpd": bound.prior_bpd,
        "kl_bpd": bound.kl_bpd,
        "decoder_bpd": bound.decoder_bpd,
    }


def _plot(bound: Bound, step: int, path: Path) -> None:
    """Each term against t, both on log scales, and what of the bound lies at or below t."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    times, terms, errors = np.array(bound.times), bound.terms_bpd.numpy(), bound.terms_se.numpy()
    low = np.maximum(terms - errors, 1e-12) if (terms > 0).all() else terms - errors
    left.fill_between(times, low, terms + errors, alpha=0.3, linewidth=0)
    left.plot(times, terms, marker="o" if len(times) < 30 else None, markersize=3)
    left.set(xscale="log", xlabel="t", ylabel="bits/dim", title="terms: L_0 at t = 1, then L_(t−1); ± standard error")
    if (terms > 0).all():
        left.set_yscale("log")
    right.plot(times, np.cumsum(terms))
    right.axhline(bound.total_bpd, linestyle=":", color="gray")
    right.set(xscale="log", xlabel="t", ylabel="bits/dim", title=f"sum up to t; all: {bound.total_bpd:.3f} at step {step}")
    figure.savefig(path, dpi=110)
