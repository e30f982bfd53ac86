"""Measured pieces of work on disk, so that nothing is measured twice.

A piece is known by all that its numbers depend on and by the data it covers. Processes take turns over the pieces, and all read
all of them: with any number of processes every number is the same to the bit.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from ddpm_lab import ranks
from ddpm_lab.errors import UserError
from ddpm_lab.files import write_text
from ddpm_lab.models.checkpoint import read_archive, write_archive

Piece = dict[str, Tensor]
METHOD = 4
"""Raised when the code measures something else under the same identity: earlier pieces are then not used."""
DESCRIPTION = "about.json"


class Store:
    """Pieces of work under a folder, one subfolder for each measurement."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def place(self, kind: str, identity: Mapping[str, Any]) -> Path:
        """The folder of an identity, which its about.json holds in full."""
        text = json.dumps({**identity, "method": METHOD}, indent=2, sort_keys=True, ensure_ascii=False)
        place = self.folder / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        try:
            place.mkdir(parents=True, exist_ok=True)
            if ranks.rank() == 0 and not (place / DESCRIPTION).exists():
                write_text(place / DESCRIPTION, text + "\n")
        except OSError as error:
            raise UserError(f"{place}: cannot be written ({error.strerror}), and measured pieces are kept there") from error
        return place

    def pieces(
        self,
        kind: str,
        identity: Mapping[str, Any],
        n: int,
        size: int,
        work: Callable[[int, int], Piece],
        title: str,
    ) -> "Pieces":
        """Data 0..n−1 in pieces of `size`; missing ones are made by `work(start, stop)` under a progress bar with `title`."""
        place = self.place(kind, identity)
        spans = [(start, min(start + size, n)) for start in range(0, n, size)]
        paths = [place / f"{start:08d}-{stop:08d}.pt" for start, stop in spans]
        make(paths, [lambda span=span: work(*span) for span in spans], title, [stop - start for start, stop in spans])
        return Pieces(paths)


class Pieces(Sequence[Piece]):
    """Pieces of work in order, each read when it is used."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: Any) -> Any:
        return read(self.paths[i])


def make(paths: Sequence[Path], works: Sequence[Callable[[], Piece]], title: str, sizes: Sequence[int]) -> None:
    """Makes every file that is missing or damaged, in turns over processes, with a bar over data. Returns when all are done."""
    missing = ranks.agreed([i for i, path in enumerate(paths) if not is_whole(path)])
    done, hidden = sum(sizes) - sum(sizes[i] for i in missing), ranks.rank() > 0 or not missing
    with tqdm(total=sum(sizes), initial=done, desc=title, leave=False, disable=hidden) as bar:
        for turn in range(ranks.rank(), len(missing), ranks.world()):
            _write(works[missing[turn]](), paths[missing[turn]])
            bar.update(sum(sizes[i] for i in missing[turn : turn + ranks.world()]))
    ranks.gather(None)  # until every process has written its pieces


def is_whole(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        read(path)
    except Exception:  # cut short, or another file: torch raises many kinds
        return False
    return True


def read(path: Path) -> Piece:
    """The tensors in a file. Raises what `read_archive` raises."""
    return read_archive(path)


def _write(piece: Piece, path: Path) -> None:
    write_archive({name: value.cpu() for name, value in piece.items()}, path)
