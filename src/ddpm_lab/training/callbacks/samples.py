"""Pictures of samples. The same seeds at every validation: what changes between two pictures is the model."""

from pathlib import Path
from typing import Annotated

import torch
from annotated_types import Ge
from lightning import Callback, Trainer

from ddpm_lab import ranks
from ddpm_lab.domains import Given, NonNegativeInt, Size, checked
from ddpm_lab.metrics.record import Result
from ddpm_lab.pictures import save_grid, save_progression
from ddpm_lab.training.module import TrainingModule
from ddpm_lab.training.results import log_picture


@checked
class Samples(Callback):
    """samples/step_<n>.png: n samples as the run draws them. samples/progression_<n>.png: x̂_0 of the first `rows` of them on
    the way from noise (left) to data (right), at `frames` times; left out for a model that samples in one step."""

    needs = "samples"

    def __init__(
        self,
        n: Size = 64,
        rows: Size = 8,
        frames: Annotated[int, Ge(2)] = 10,
        seed: NonNegativeInt = 0,
        *,
        batch: Given[int] = 256,
    ) -> None:
        self.n, self.rows, self.frames, self.seed, self.batch = n, min(rows, n), frames, seed, max(batch, min(rows, n))

    def on_validation_epoch_end(self, trainer: Trainer, module: TrainingModule) -> None:
        self.draw(trainer, module)

    def final(self, trainer: Trainer, module: TrainingModule) -> list[Result]:
        """Draws once more unless a validation at this step has."""
        if not _picture(trainer, "step").exists():
            self.draw(trainer, module)
        return []

    def draw(self, trainer: Trainer, module: TrainingModule) -> None:
        """Both pictures from one pass of the sampler."""
        model = module.eval_model
        last, count = model.sample_steps - 1, min(self.frames, model.sample_steps)
        none, (first, end) = torch.empty(0, *model.shape, device=model.device), ranks.share(self.n)
        frames = {round(i * last / max(count - 1, 1)): none for i in range(count)}
        labels, finals = dict.fromkeys(frames, ""), [none]
        for start in range(first, end, self.batch):
            for i, state in enumerate(model.sample_states(start, min(start + self.batch, end), seed=self.seed)):
                if start == first and i in frames:
                    frames[i], labels[i] = state.x0[: self.rows], state.label
                final = state.x
            finals.append(final)
        words = next(filter(any, ranks.gather(list(labels.values()))), list(labels.values()))  # a process may have no sample
        samples, shown = ranks.rows(torch.cat(finals)).cpu(), [ranks.rows(x)[: self.rows].cpu() for x in frames.values()]

        def write() -> None:
            log_picture(trainer, "samples/grid", save_grid(samples, _picture(trainer, "step")))
            if model.sample_steps > 1:
                progression = save_progression(shown, words, _picture(trainer, "progression"))
                log_picture(trainer, "samples/progression", progression)

        ranks.on_first(write)


def _picture(trainer: Trainer, name: str) -> Path:
    return Path(trainer.default_root_dir) / "samples" / f"{name}_{trainer.global_step:07d}.png"
