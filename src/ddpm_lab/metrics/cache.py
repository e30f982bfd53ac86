"""What is slow to compute, on disk: statistics of real data under <root>/stats, trained extractors under <root>/extractors,
each as <hash of what it depends on>, with what that is beside it as .json."""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from ddpm_lab.metrics.frechet import FeatureStats

log = logging.getLogger("ddpm_lab")


def root() -> Path:
    """DDPM_LAB_CACHE, or ~/.cache/ddpm-lab."""
    return Path(os.environ.get("DDPM_LAB_CACHE") or "~/.cache/ddpm-lab").expanduser()


def folder() -> Path:
    """Of the statistics."""
    return root() / "stats"


def read(about: dict[str, Any]) -> FeatureStats | None:
    """The statistics that belong to `about`, which says all they depend on; None where they are not there or not whole."""
    path = _path(about)
    if not path.exists():
        return None
    try:
        with path.open("rb") as file:
            return FeatureStats.from_state(dict(np.load(file, allow_pickle=False)))
    except Exception:  # a damaged file can raise anything from zlib.error to MemoryError
        return None


def write(about: dict[str, Any], stats: FeatureStats) -> None:
    """For the next run. Where that cannot be, a warning says so."""
    _keep(_path(about), about, lambda file: np.savez(file, **stats.state()))


def read_extractor(about: dict[str, Any]) -> dict[str, Any] | None:
    """What `write_extractor` kept under `about`; None where it is not there or not whole."""
    path = _extractor_path(about)
    if not path.exists():
        return None
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # as above
        return None
    return found if isinstance(found, dict) else None


def write_extractor(about: dict[str, Any], content: dict[str, Any]) -> None:
    """Tensors and plain containers, for the next run. Where that cannot be, a warning says so."""
    _keep(_extractor_path(about), about, lambda file: torch.save(content, file))


def _record(about: dict[str, Any]) -> bytes:
    return json.dumps(about, indent=2, sort_keys=True).encode()


def _name(about: dict[str, Any]) -> str:
    return hashlib.sha256(_record(about)).hexdigest()[:32]


def _path(about: dict[str, Any]) -> Path:
    return folder() / f"{_name(about)}.npz"


def _extractor_path(about: dict[str, Any]) -> Path:
    return root() / "extractors" / f"{_name(about)}.pt"


def _keep(path: Path, about: dict[str, Any], write: Callable[[BinaryIO], object]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path.with_suffix(".json"), lambda file: file.write(_record(about)))
        _write(path, write)
    except OSError as error:
        log.warning("%s could not be written (%s), so the next run computes it again", path, error.strerror)


def _write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Beside the target, then renamed: a reader finds a whole file or none."""
    partial = path.with_name(f"{path.name}.tmp.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            write(file)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
