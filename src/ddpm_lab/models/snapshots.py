"""Snapshots of power-function averages, kept over training beside the checkpoints, and averages of other lengths from them.

A checkpoint lists its snapshots by step with the sha256 of each file, so what is solved from them is a function of the
checkpoint alone: files that later steps or other runs have left are in no list.
"""

import math
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ddpm_lab.core.posthoc import LONGEST, Combined, Profiles, combined, exponent
from ddpm_lab.errors import UserError
from ddpm_lab.files import replacing, sha256
from ddpm_lab.models.checkpoint import read_archive, write_archive

FOLDER = "snapshots"
LISTED = "snapshots"
"""The key of a checkpoint: by step the sha256 of a file. Who has it averages by powers: "ema/0.05" is of σ_rel = 0.05."""
ACCURATE = 0.05
"""The largest error of a profile that is solved. Weights, which change slowly, then err by less than 1%."""
ROUNDED = 2**16
"""Coefficients are multiples of 1/ROUNDED: their products with float32 weights are exact in float64, so that the sums are the
same to the bit on machines whose solutions differ in their last digits."""
Averages = Mapping[str, Mapping[str, Tensor]]
"""The weights of each average, by its key in a checkpoint."""
Dtype = Literal["float32", "float16"]


def place(checkpoints: Path, step: int) -> Path:
    """Of the snapshot in a folder of checkpoints."""
    return checkpoints / FOLDER / f"step_{step:07d}.ckpt"


def averaged(net: nn.Module) -> list[str]:
    """The entries of a network's state that are averaged: its parameters, and not its buffers."""
    buffers = {name for name, _ in net.named_buffers()}
    return [name for name, value in net.state_dict().items() if name not in buffers and value.is_floating_point()]


def write_snapshot(averages: Mapping[str, nn.Module], dtype: Dtype, path: Path) -> str:
    """Writes the networks' parameters; returns the sha256 of the file. Raises UserError where there is no room, and for weights
    that the dtype cannot hold."""
    content: dict[str, dict[str, Tensor]] = {}
    for key, net in averages.items():
        state = net.state_dict()
        content[key] = {name: state[name].detach().to("cpu", getattr(torch, dtype)) for name in averaged(net)}
        if not all(value.isfinite().all() for value in content[key].values()):
            raise UserError(f"{path}: weights of {key} are beyond what {dtype} holds: ema.dtype=float32 keeps them")
    write_archive(content, path)
    return sha256(path)


def present(checkpoints: Path, listed: Mapping[int, str]) -> dict[int, str]:
    """Those of the list whose files are there as they were written."""
    paths = {step: place(checkpoints, step) for step in listed}
    return {step: digest for step, digest in listed.items() if paths[step].is_file() and sha256(paths[step]) == digest}


def remove_others(checkpoints: Path, listed: Iterable[int]) -> None:
    """Removes what steps after the checkpoint have left, and what was being written when a run was killed."""
    ours = {place(checkpoints, step) for step in listed}
    for path in (checkpoints / FOLDER).glob("*.ckpt"):
        if path not in ours:
            path.unlink()


def copy_listed(source: Path, target: Path, listed: Mapping[int, str]) -> None:
    """From one folder of checkpoints to another, those that are there. Raises OSError."""
    for step in present(source, listed) if source.resolve() != target.resolve() else ():
        with replacing(place(target, step)) as partial:
            shutil.copyfile(place(source, step), partial)


class Solver:
    """The averages of any length that a checkpoint at `path` can give, from its own and from its snapshots. `names`: the
    entries of their states that are averaged. Raises UserError for a checkpoint whose averages have no length."""

    def __init__(self, checkpoint: Mapping[str, Any], path: Path, names: Sequence[str]) -> None:
        self.own: Averages = {key: value for key, value in checkpoint.items() if key.startswith("ema/")}
        self.folder, self.step, self.names = path.parent, int(checkpoint["global_step"]), names
        self.listed = {step: digest for step, digest in checkpoint[LISTED].items() if step < self.step}
        lengths = [length_of(key) for key in self.own]
        if None in lengths or len(set(lengths)) < len(lengths):
            raise UserError(f"{path}: a damaged checkpoint: {', '.join(self.own)}: allowed are different lengths")
        times = torch.tensor([*self.listed, self.step], dtype=torch.float64)
        gammas = torch.tensor([exponent(each) for each in lengths if each is not None], dtype=torch.float64)
        self.kept = Profiles(*torch.cartesian_prod(times, gammas).T)

    @property
    def count(self) -> int:
        """Of the averages that are added up."""
        return len(self.kept.t)

    @property
    def range(self) -> str:
        """The lengths that can be solved, in words: in steps of a thousandth. Empty where none of these can."""
        errors = self._combined(i / 1000 for i in range(1, int(1000 * LONGEST) + 1)).error.tolist()
        good = {i for i, error in enumerate(errors, 1) if error <= ACCURATE}
        ends = [[i for i in sorted(good) if i + step not in good] for step in (-1, 1)]
        return " or ".join(f"{low / 1000:g} to {high / 1000:g}" for low, high in zip(*ends, strict=True))

    def reaches(self, sigma_rel: float) -> bool:
        """Whether the average of that length can be solved."""
        return float(self._combined([sigma_rel]).error) <= ACCURATE

    def solved(self, sigma_rel: float) -> dict[str, Tensor]:
        """The state of the average of that length; what is not averaged is the checkpoint's. Raises UserError for a snapshot
        that is missing or damaged."""
        state = dict(next(iter(self.own.values())))
        sums = {name: torch.zeros_like(state[name], dtype=torch.float64) for name in self.names}
        coefficients = rounded(self._combined([sigma_rel]).coefficients[:, 0]).view(-1, len(self.own))
        for averages, of_time in zip(self._states(), coefficients.tolist(), strict=True):
            for key, x in zip(self.own, of_time, strict=True):
                for name, total in sums.items():
                    total.add_(averages[key][name].double(), alpha=x)
        return state | {name: total.to(state[name].dtype) for name, total in sums.items()}

    def _combined(self, lengths: Iterable[float]) -> Combined:
        gamma = torch.tensor([exponent(sigma_rel) for sigma_rel in lengths], dtype=torch.float64)
        return combined(self.kept, Profiles(torch.full_like(gamma, self.step), gamma))

    def _states(self) -> Iterator[Averages]:
        """In the order of `kept`, one snapshot in memory at a time."""
        for step, digest in self.listed.items():
            yield self._read(place(self.folder, step), digest)
        yield self.own

    def _read(self, path: Path, digest: str) -> Averages:
        kept = f"raw and {', '.join(self.own)} need none"
        if not path.is_file():
            raise UserError(f"{path}: this snapshot is missing: put it back beside the checkpoint; {kept}")
        try:
            if sha256(path) != digest:
                raise ValueError("not what the checkpoint lists")
            averages = read_archive(path)
            alike = all(averages[key][name].shape == self.own[key][name].shape for key in self.own for name in self.names)
        except Exception as error:  # torch raises a dozen kinds
            raise UserError(f"{path}: this snapshot is damaged, or of another run: put its own back; {kept}") from error
        if not alike:
            raise UserError(f"{path}: this snapshot is of another network; {kept}")
        return averages


def length_of(weights: str) -> float | None:
    """σ_rel that "ema/0.05" names; None where it names no length."""
    try:
        sigma_rel = float(weights.removeprefix("ema/")) if weights.startswith("ema/") else math.nan
    except ValueError:
        return None
    return sigma_rel if 0 < sigma_rel <= LONGEST else None


def rounded(coefficients: Tensor) -> Tensor:
    """To multiples of 1/ROUNDED that add up to 1: the largest takes what rounding leaves."""
    x = (coefficients * ROUNDED).round() / ROUNDED
    x[coefficients.abs().argmax()] += 1 - x.sum()
    return x
