"""What a figure is made from, what it gives, and its files."""

import textwrap
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple

import torch
from annotated_types import Gt, Le, MinLen
from matplotlib.figure import Figure
from torch import Tensor

from ddpm_lab.core import rng, transfer
from ddpm_lab.core.diffusion import GaussianDiffusion
from ddpm_lab.core.path import Chain
from ddpm_lab.core.sampler import Noise, Sampler
from ddpm_lab.errors import UserError
from ddpm_lab.evaluation.subject import Choice, Subject
from ddpm_lab.files import replacing, unwritable, write_json, write_sums, write_text
from ddpm_lab.models.diffusion import Diffusion
from ddpm_lab.models.measurement import SPLITS

Fractions = Annotated[list[Annotated[float, Gt(0), Le(1)]], MinLen(1)]
"""Times as parts of T."""
FORMATS = {"png": 200, "pdf": 200}
"""Dots per inch: pictures are drawn for 100, so every pixel of theirs is four."""


class Drawn(NamedTuple):
    """A figure, its caption but for how it was made, and the numbers that the caption has."""

    figure: Figure
    caption: str
    numbers: Mapping[str, float] = MappingProxyType({})
    sampled: bool = True
    """Whether the sampler has a part in it."""


@dataclass(frozen=True)
class Trained:
    """A trained diffusion with its data and its random numbers."""

    subject: Subject
    choice: Choice

    @property
    def model(self) -> Diffusion:
        """Raises UserError for another model."""
        assert self.subject.run.diffusion
        return self.choice.model  # type: ignore[return-value]

    @property
    def diffusion(self) -> GaussianDiffusion:
        return self.model.diffusion

    @property
    def sampler(self) -> Sampler:
        return self.model.sampler

    @property
    def chain(self) -> Chain:
        """Of the sampler."""
        return self.sampler.chain(self.diffusion.schedule)

    @property
    def net(self) -> torch.nn.Module:
        return self.model.network

    def times(self, fractions: Sequence[float]) -> list[int]:
        """Parts of T as times 1..T."""
        return [max(1, round(fraction * self.diffusion.schedule.T)) for fraction in fractions]

    def check_size(self, key: str, n: int, split: str = "val") -> None:
        """Raises UserError for more than n data of a split, and for data that are not there."""
        if n > (size := self.subject.size(split)):
            raise UserError(f"figure.{key}={n}: there are {size} {SPLITS[split]} data")

    def x0(self, n: int, first: int = 0) -> Tensor:
        """Held-out data first..first+n−1 in [−1, 1]."""
        return self.subject.x0("val", first, first + n)

    def check_noise(self) -> None:
        """Raises UserError for a sampler that draws none: all it makes of one x_t is the same."""
        if not self.sampler.noisy(self.diffusion.variance):
            name = self.choice.names_of_samples.get("sampler") or self.choice.record_of_samples["sampler"]
            raise UserError(f"sampler={name} draws no noise, so all would be alike: use ancestral, ddim_eta1 or edm_churn")

    def noise(self, n: int, first: int = 0, copies: int = 1) -> Noise:
        """Draws for n rows, each the same for `copies` in a row. Row i depends on (seed, first + i) alone."""

        def draw(counter: int) -> Tensor:
            rows = rng.normal(self.model.shape, self.subject.seed, "editing", counter, first, first + n)
            return transfer.like(rows.repeat_interleave(copies, 0), next(self.net.parameters()))

        return draw

    def samples(self, xt: Tensor, t: int, noise: Noise) -> Tensor:
        """x_0 by the sampler from x_t on."""
        *_, last = self.sampler(self.diffusion, self.net, xt, noise, start=t)
        return last.x

    def how(self, sampled: bool) -> str:
        """In words, for a caption. `sampled`: whether the sampler has a part."""
        names, record, subject = self.choice.names_of_samples, self.choice.record_of_samples, self.subject
        parts = [
            f"Weights {subject.run.described_weights} of {subject.checkpoint} at step {subject.run.step}",
            f"seed {subject.seed}",
        ]
        if sampled:
            settings = ", ".join(f"{'η' if key == 'eta' else key} = {value}" for key, value in self.sampler.settings.items())
            settings = f" ({settings})" if settings else ""
            parts.append(
                f"sampler {names['sampler']}{settings} in {record['steps']} of {record['T']} steps ({record['spacing']})"
            )
            parts.append("no reverse variance" if record["variance"] is None else f"reverse variance {names['variance']}")
            quantile = "" if isinstance(record["clip"], bool) else f" at its {record['clip']:g} quantile"
            parts.append(f"x̂_0 {'clipped' if record['clip'] else 'not clipped'}{quantile}")
        return f"{', '.join(parts)}."

    @property
    def record(self) -> dict[str, Any]:
        return {"checkpoint": str(self.subject.checkpoint), **self.subject.of_network, **self.choice.record_of_samples}


class PaperFigure(ABC):
    """One kind of figure; its fields are the keys of its file in conf/figures/figure/."""

    needs_run = True
    of_vectors = False
    """Whether data that are no images have it."""
    of_classes = False
    """Whether conditional models have it: the figure calls no network without the classes of its rows."""

    def check(self, of: Trained) -> None:  # noqa: B027
        """Raises UserError for what cannot be drawn, before any work."""

    @abstractmethod
    def draw(self, of: Trained) -> Drawn: ...


def write(name: str, drawn: Drawn, of: Trained | None, folder: Path) -> list[Path]:
    """NAME.png, NAME.pdf, the caption NAME.txt, and the record NAME.json. Raises UserError for a folder that
    cannot be written."""
    paths = {kind: folder / f"{name}.{kind}" for kind in (*FORMATS, "txt", "json")}
    record = {} if of is None else of.record
    caption = " ".join([drawn.caption, *([] if of is None else [of.how(drawn.sampled)])])
    with unwritable(folder, "out"):
        for kind, dpi in FORMATS.items():
            with replacing(paths[kind]) as partial:
                drawn.figure.savefig(partial, dpi=dpi, format=kind, metadata={"CreationDate": None} if kind == "pdf" else None)
        write_text(paths["txt"], textwrap.fill(caption, 100, break_long_words=False, break_on_hyphens=False) + "\n")
        write_json(paths["json"], {"figure": name, "caption": caption, "numbers": dict(drawn.numbers), "record": record})
        write_sums(folder, [path.name for path in paths.values()])
    return list(paths.values())
