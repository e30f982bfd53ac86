"""What has been measured already, on disk: work is cut into pieces, each kept when it is done, so that nothing is done twice.

A piece of work is known by all that its numbers depend on, and by which data it covers; who did it does not matter. Processes
take turns over the pieces, and all read all of them: however many there are, every number is the same to the bit.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ddpm_lab import ranks
from ddpm_lab.errors import UserError

Piece = dict[str, Tensor]
METHOD = 2
"""Raised when the code comes to measure something else: what was measured before is then not taken for it."""


class Store:
    """Pieces of work under a folder, one subfolder for each thing that was measured."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def place(self, kind: str, about: dict[str, Any]) -> Path:
        """The folder of what `about` describes; about.json in it says so in full."""
        text = json.dumps(about | {"method": METHOD}, indent=2, sort_keys=True, ensure_ascii=False)
        place = self.folder / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        try:
            place.mkdir(parents=True, exist_ok=True)
            if ranks.rank() == 0 and not (place / "about.json").exists():
                (place / "about.json").write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"{place}: cannot be written ({error.strerror}), and what is measured is kept there") from error
        return place

    def pieces(
        self, kind: str, about: dict[str, Any], n: int, size: int, work: Callable[[int, int], Piece], told: str
    ) -> "Pieces":
        """Data 0..n−1 in pieces of `size`: those that are not there yet are made by `work(start, stop)`. `told` is what the bar
        says."""
        place = self.place(kind, about)
        spans = [(start, min(start + size, n)) for start in range(0, n, size)]
        paths = [place / f"{start:08d}-{stop:08d}.pt" for start, stop in spans]
        make(paths, [lambda span=span: work(*span) for span in spans], told, [stop - start for start, stop in spans])
        return Pieces(paths)


class Pieces(Sequence[Piece]):
    """Pieces of work in order, each read when it is asked for."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: Any) -> Any:
        return read(self.paths[i])


def make(paths: Sequence[Path], works: Sequence[Callable[[], Piece]], told: str, sizes: Sequence[int]) -> None:
    """Every file that is not there, or not whole; with processes in turns, and a bar over data. Returns when all are done."""
    missing = ranks.agreed([i for i, path in enumerate(paths) if not is_whole(path)])
    own = missing[ranks.rank() :: ranks.world()]
    with tqdm(total=sum(sizes), initial=sum(sizes) - sum(sizes[i] for i in missing), desc=told, leave=False,
              disable=ranks.rank() > 0 or not missing) as bar:  # fmt: skip
        for i in own:
            _write(works[i](), paths[i])
            bar.update(sum(sizes[j] for j in missing[missing.index(i) : missing.index(i) + ranks.world()]))
    ranks.gather(None)  # all wait for all: what process 0 found would not wait for the others


def is_whole(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        read(path)
    except Exception:  # cut short, or not ours: torch raises a dozen kinds
        return False
    return True


def read(path: Path) -> Piece:
    """What a file holds; runs no code from it."""
    return torch.load(path, map_location="cpu", weights_only=True)


def _write(piece: Piece, path: Path) -> None:
    """Beside the target, then renamed: there is a whole file or none."""
    partial = path.with_suffix(f".tmp{os.getpid()}")
    try:
        torch.save({name: value.cpu() for name, value in piece.items()}, partial)
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # torch hides a full disk in a RuntimeError
        raise UserError(f"{path}: could not be written ({error}); what was measured before is kept") from error
    finally:
        partial.unlink(missing_ok=True)
