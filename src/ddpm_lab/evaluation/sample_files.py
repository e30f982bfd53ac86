"""Samples as files: pictures, a grid, arrays for other people's evaluators, floats, a film; and the record of how they came."""

import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddpm_lab import ranks
from ddpm_lab.core.grey import scale, to_levels, to_uint8
from ddpm_lab.errors import UserError
from ddpm_lab.evaluation.report import write_columns
from ddpm_lab.evaluation.samples import PIECE, drawn
from ddpm_lab.evaluation.store import Pieces
from ddpm_lab.evaluation.subject import Choice, Subject
from ddpm_lab.evaluation.trajectory import Shown, write_trajectory
from ddpm_lab.files import SUMS, replacing, unwritable, write_json, write_sums
from ddpm_lab.metrics.record import Record, record
from ddpm_lab.pictures import diverged, save_grid
from ddpm_lab.signals import work_begins

Kind = Literal["png", "grid", "npz", "pt"]
RECORD = "samples.json"
"""Written last: a folder that has it is complete."""


class Wanted(NamedTuple):
    """Keys of conf/sample/config.yaml."""

    n: int
    files: Sequence[Kind] | None
    grid: int
    shown: Shown | None

    def kinds(self, choice: Choice) -> Sequence[Kind]:
        """Of files. Raises UserError for pictures of vectors."""
        images = len(choice.model.shape) == 3
        if self.files is None:
            return ("png", "grid", "npz") if images else ("grid", "pt")
        if not images and (wrong := {"png", "npz"} & set(self.files)):
            raise UserError(f"files={sorted(wrong)[0]}: the samples of this run are vectors; allowed are grid and pt")
        return self.files

    def check_disk(self, choice: Choice, folder: Path) -> None:
        """Raises UserError where `folder`, or the nearest one above it that exists, has no room. Pictures of noise do not
        compress: a PNG is counted as its pixels."""
        kinds, values = self.kinds(choice), self.n * int(np.prod(choice.model.shape))
        kept = 4 if "pt" in kinds or choice.model.levels is None else 1
        needed = values * (kept + ("png" in kinds) + ("npz" in kinds) + 4 * ("pt" in kinds))
        disk = shutil.disk_usage(next(place for place in (folder, *folder.absolute().parents) if place.exists()))
        if needed > disk.free and disk.total:  # some file systems do not tell
            raise UserError(
                f"n={self.n}: its files need about {needed / 1e9:,.1f} GB, and {folder} has {disk.free / 1e9:,.1f} GB free: "
                "choose a smaller n, fewer files, or another folder by out="
            )


def write_samples(subject: Subject, choice: Choice, wanted: Wanted, folder: Path) -> list[Path]:
    """Draws n samples, shared by all processes, and writes them to `folder` by the first; a stop goes on with what was drawn.
    Returns the files, a folder of pictures as one of them. Raises UserError for a folder that cannot be written."""
    work_begins()
    kinds, written = wanted.kinds(choice), list[Path]()
    pieces = drawn(subject, choice, wanted.n, exact="pt" in kinds)

    def write() -> None:
        with unwritable(folder, "out"):
            (folder / SUMS).unlink(missing_ok=True)
            (folder / RECORD).unlink(missing_ok=True)
            samples = _Samples(pieces, choice, wanted, choice.model.sample_classes(0, wanted.n, subject.seed))
            written.extend(WRITERS[kind](samples, folder) for kind in kinds)
            written.extend(write_columns(columns, folder / f"{name}.csv") for name, columns in choice.tables.items())
            if wanted.shown is not None:
                written.extend(write_trajectory(choice.model, subject.seed, subject.batch, wanted.shown, folder))
            broken = sum(int(piece["not_finite"]) for piece in pieces)
            how = _record(subject, choice, wanted.n) | {"not_finite": broken}
            write_json(
                folder / RECORD, {"checkpoint": str(subject.checkpoint), "record": how, "files": _about(written, choice)}
            )
            write_sums(folder, (RECORD, *(path.name for path in written if path.is_file())))
            if broken:
                print(f"warning: {diverged(broken, wanted.n, choice.model.levels)}")

    ranks.on_first(write)
    return [*written, folder / RECORD]


class _Samples(NamedTuple):
    """All samples, piece by piece."""

    pieces: Pieces
    choice: Choice
    wanted: Wanted
    classes: Tensor | None

    def floats(self) -> Iterator[Tensor]:
        """N × shape, as the sampler leaves them if the pieces are exact, else on the grid of grey levels."""
        for piece in self.pieces:
            x = piece["x"]
            yield x if x.is_floating_point() else scale(x, self.choice.model.levels)

    def bytes(self) -> Iterator[np.ndarray]:
        """N×H×W×C, uint8: each grey level of the data as the nearest of 256."""
        for x in self.floats():
            levels = self.choice.model.levels
            on_grid = x if levels is None else scale(to_levels(x, levels), levels)
            yield to_uint8(on_grid).permute(0, 2, 3, 1).contiguous().numpy()


def _write_pictures(samples: _Samples, folder: Path) -> Path:
    """images/000000.png, …"""
    place = folder / "images"
    place.mkdir(parents=True, exist_ok=True)
    for first, pictures in zip(range(0, samples.wanted.n, PIECE), samples.bytes(), strict=True):
        for i, picture in enumerate(pictures, first):
            Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture).save(place / f"{i:06d}.png")
    return place


def _write_grid(samples: _Samples, folder: Path) -> Path:
    shown: list[Tensor] = []
    for x in samples.floats():
        shown.append(x[: samples.wanted.grid - sum(map(len, shown))])
        if sum(map(len, shown)) == min(samples.wanted.grid, samples.wanted.n):
            break
    return save_grid(torch.cat(shown), folder / "grid.png")


def _write_npz(samples: _Samples, folder: Path) -> Path:
    """arr_0, uint8 N×H×W×C, and of a conditional model arr_1, the classes, int64 N, as guided-diffusion (Dhariwal & Nichol
    2021) writes them and its evaluator reads them. Pictures are never whole in memory."""
    channels, height, width = samples.choice.model.shape
    header = {"descr": "|u1", "fortran_order": False, "shape": (samples.wanted.n, height, width, channels)}
    with (
        replacing(folder / "samples.npz") as partial_path,
        zipfile.ZipFile(partial_path, "w") as archive,
    ):
        with archive.open("arr_0.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(file, header)  # type: ignore[arg-type]
            for pictures in samples.bytes():
                file.write(pictures.tobytes())
        if samples.classes is not None:
            with archive.open("arr_1.npy", "w") as file:
                np.lib.format.write_array(file, samples.classes.numpy())  # type: ignore[arg-type]
    return folder / "samples.npz"


def _write_floats(samples: _Samples, folder: Path) -> Path:
    """A float32 tensor, N × shape, by torch.load. Never whole in memory: the file's pages are."""
    with replacing(folder / "samples.pt") as partial_path:
        raw = partial_path.with_suffix(".raw")
        size = samples.wanted.n * int(np.prod(samples.choice.model.shape))
        try:
            mapped = torch.from_file(str(raw), shared=True, size=size, dtype=torch.float32)
            for first, x in zip(range(0, samples.wanted.n, PIECE), samples.floats(), strict=True):
                mapped[first * x[0].numel() : (first + len(x)) * x[0].numel()] = x.float().flatten()
            torch.save(mapped.view(samples.wanted.n, *samples.choice.model.shape), partial_path)
        finally:
            raw.unlink(missing_ok=True)
    return folder / "samples.pt"


WRITERS: dict[Kind, Callable[[_Samples, Path], Path]] = {
    "png": _write_pictures,
    "grid": _write_grid,
    "npz": _write_npz,
    "pt": _write_floats,
}


def _record(subject: Subject, choice: Choice, n: int) -> Record:
    """What `evaluate.py` puts beside a number that was measured on these samples, but for what only concerns the number."""
    network = {"checkpoint_sha256": subject.of_network["checkpoint_sha256"], **subject.run.model.numerics()}
    return record(n=n, split="samples", **{**subject.of_run, **network, **choice.record_of_samples})


def _about(written: Sequence[Path], choice: Choice) -> dict[str, str]:
    """What stands in each file."""
    grey = "" if choice.model.levels in (256, None) else f"; the data's {choice.model.levels} grey levels as the nearest of 256"
    meanings = {
        "images": f"uint8, rounded and not truncated{grey}; 000000.png is sample 0",
        "samples.npz": f"arr_0, uint8 N×H×W×C, rounded and not truncated{grey}; arr_1, where there are classes, those",
        "samples.pt": "float32 N × shape, as the sampler leaves them",
    }
    others = {".csv": "what the choice rests on, as measured of the network first"}
    return {path.name: meanings.get(path.name, others.get(path.suffix, "picture")) for path in written}
