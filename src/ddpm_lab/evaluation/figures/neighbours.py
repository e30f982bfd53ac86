"""Nearest training data of samples."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from ddpm_lab.core.grey import scale
from ddpm_lab.domains import PositiveInt, checked
from ddpm_lab.errors import UserError
from ddpm_lab.evaluation.figures.figure import Drawn, PaperFigure, Trained
from ddpm_lab.evaluation.samples import drawn
from ddpm_lab.metrics.classifier import Classifier
from ddpm_lab.metrics.extractors import Pixels
from ddpm_lab.metrics.scores import squared_distances
from ddpm_lab.pictures import strip

COPY = 1 / 3
"""Of the distance to the nearest over that to the second nearest: a sample below it counts as memorised (Yoon et al. 2023)."""
WORDS = {"pixels": "pixels", "classifier": "features of a classifier of the data's labels", "inception": "Inception features"}
Space = Callable[[Tensor], Tensor]


@checked
@dataclass
class Neighbours(PaperFigure):
    """The samples that are nearest to training data, by the ratio of the two smallest distances, with these data."""

    of_classes = True

    n: PositiveInt = 256
    rows: PositiveInt = 8
    nearest: Annotated[int, Ge(2)] = 3
    features: Literal["classifier", "inception"] | None = "classifier"

    def check(self, of: Trained) -> None:
        of.check_size("nearest", self.nearest, "train")
        if self.rows > self.n:
            raise UserError(f"figure.rows={self.rows}: there are figure.n={self.n} samples")
        if self.features == "classifier":
            try:
                Classifier.check(of.subject.data)
            except ValueError as error:
                raise UserError(f"figure.features=classifier: {error}; use figure.features=null") from error

    def draw(self, of: Trained) -> Drawn:
        found = drawn(of.subject, of.choice, self.n)
        samples = torch.cat([scale(piece["x"], of.model.levels) for piece in found]).to(of.subject.device)
        spaces = {"pixels": Pixels()} | ({} if self.features is None else {self.features: _extractor(self.features, of)})
        near = {name: _nearest(of, samples, space, self.nearest) for name, space in spaces.items()}
        ratios = {name: distances[:, 0] / distances[:, 1] for name, (distances, _) in near.items()}
        shown = ratios["pixels"].argsort()[: self.rows]
        pictures, columns = [samples[shown, None]], ["sample"]
        for name, (_, rows) in near.items():
            chosen = scale(of.subject.data.raw("train")[rows[shown].cpu()], of.model.levels).to(samples)
            pictures.append(chosen)
            columns += [name if i == 0 else f"{i + 1}." for i in range(self.nearest)]
        copies = {name: float((ratio < COPY).double().mean()) for name, ratio in ratios.items()}
        numbers = {f"{name}_ratio_median": float(ratio.median()) for name, ratio in ratios.items()}
        numbers |= {f"{name}_ratio_below_third": share for name, share in copies.items()}
        words = " and ".join(
            f"{share:.1%} in {WORDS[name]} (median ratio {ratios[name].median():.2f})" for name, share in copies.items()
        )
        caption = (
            f"Nearest training data: of {self.n} samples the {self.rows} with the smallest ratio of the distances to their "
            f"nearest and second nearest training datum in pixels (at the left), each with its {self.nearest} nearest by the "
            f"L2 distance in {' and in '.join(WORDS[name] for name in near)}. A ratio below 1/3 hints at "
            f"memorisation (Yoon et al. 2023): {words}."
        )
        labels = [f"{ratio:.2f}" for ratio in ratios["pixels"][shown].tolist()]
        return Drawn(strip(torch.cat(pictures, 1), columns, labels), caption, numbers)


def _extractor(name: str, of: Trained) -> Space:
    if name == "classifier":
        return Classifier(data=of.subject.data)
    from ddpm_lab.metrics.inception import Inception

    return Inception()


@torch.no_grad()
def _nearest(of: Trained, samples: Tensor, space: Space, k: int) -> tuple[Tensor, Tensor]:
    """Distances n × k, smallest first, and the rows of the training data."""
    batch, size = of.subject.batch, of.subject.size("train")
    wanted = torch.cat([space(part.float()) for part in samples.split(batch)]).double()
    squares = []
    for first in range(0, size, batch):
        real = space(of.subject.x0("train", first, min(first + batch, size)).float()).double()
        squares.append(squared_distances(wanted, real))
    best = torch.cat(squares, 1).topk(k, dim=1, largest=False)
    return best.values.clamp(min=0).sqrt(), best.indices
