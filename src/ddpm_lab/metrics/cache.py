"""Statistics of real data on disk, where computing them is slow: <folder>/stats/<hash of what they depend on>.npz, .json."""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ddpm_lab.metrics.frechet import FeatureStats

log = logging.getLogger("ddpm_lab")


def folder() -> Path:
    """DDPM_LAB_CACHE, or ~/.cache/ddpm-lab."""
    return Path(os.environ.get("DDPM_LAB_CACHE") or "~/.cache/ddpm-lab").expanduser() / "stats"


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
    path = _path(about)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path.with_suffix(".json"), lambda file: file.write(_record(about)))
        _write(path, lambda file: np.savez(file, **stats.state()))
    except OSError as error:
        log.warning("%s could not be written (%s), so the next run computes it again", path, error.strerror)


def _record(about: dict[str, Any]) -> bytes:
    return json.dumps(about, indent=2, sort_keys=True).encode()


def _path(about: dict[str, Any]) -> Path:
    return folder() / f"{hashlib.sha256(_record(about)).hexdigest()[:32]}.npz"


def _write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Beside the target, then renamed: a reader finds a whole file or none."""
    partial = path.with_name(f"{path.name}.tmp.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            write(file)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
