"""What a kind of model has to show besides a likelihood and samples: numbers of the validation data, and pictures."""

from pathlib import Path
from typing import Any

from lightning import Callback, Trainer

from ddpm_lab import ranks
from ddpm_lab.core.transfer import to_device
from ddpm_lab.domains import NonNegativeInt, Size, checked
from ddpm_lab.metrics.record import Result, record
from ddpm_lab.models.readings import ReadingMeter
from ddpm_lab.pictures import save_progression
from ddpm_lab.training.module import TrainingModule
from ddpm_lab.training.results import check_enough, how_measured, log, log_picture


@checked
class Readings(Callback):
    """The model's own readings to the loggers and the final table, and its pictures of the first `n` validation data to
    samples/<name>_<step>.png."""

    def __init__(self, n: Size = 8, seed: NonNegativeInt = 0) -> None:
        self.n, self.seed = n, seed
        self._shown_at = -1

    def on_fit_start(self, trainer: Trainer, module: TrainingModule) -> None:
        for reading in module.model.readings(self.seed).values():
            check_enough(module, reading.label)

    def on_validation_epoch_end(self, trainer: Trainer, module: TrainingModule) -> None:
        log(trainer, {f"val/{key}": meter.result()[0] for key, meter in self._measured(module).items()})
        self._show(trainer, module)

    def final(self, trainer: Trainer, module: TrainingModule) -> list[Result]:
        """The readings once more, with their errors and records; pictures unless a validation at this step has drawn them."""
        if self._shown_at != trainer.global_step:
            self._show(trainer, module)
        data = module.data
        fields: dict[str, Any] = how_measured(module, self.seed) | module.model.numerics() | data.label_record
        of_data = f"({len(data.val_images)} validation data, {module.weights})"
        results: list[Result] = []
        for key, meter in self._measured(module).items():
            how = record(n=len(data.val_images), split="val", **{**fields, "unit": meter.reading.unit, **meter.reading.how})
            results.append(Result(key, f"{meter.reading.label} {of_data}", *meter.result(), how))
        return results

    def _measured(self, module: TrainingModule) -> dict[str, ReadingMeter]:
        meters = {key: ReadingMeter(reading) for key, reading in module.eval_model.readings(self.seed).items()}
        for batch in module.data.val_dataloader() if meters else ():
            for meter in meters.values():
                meter.add(to_device(batch.x0, module.device).to(module.dtype), batch.first)
        for meter in meters.values():
            meter.gather()
        return meters

    def _show(self, trainer: Trainer, module: TrainingModule) -> None:
        x0 = to_device(module.data.scaled("val", self.n), module.device).to(module.dtype)
        pictures = module.eval_model.pictures(x0, self.seed)

        def write() -> None:
            for name, picture in pictures.items():
                path = Path(trainer.default_root_dir) / "samples" / f"{name}_{trainer.global_step:07d}.png"
                columns = [column.cpu() for column in picture.columns]
                log_picture(trainer, f"samples/{name}", save_progression(columns, list(picture.labels), path))

        ranks.on_first(write)
        self._shown_at = trainer.global_step
