"""Published statistics of features: an .npz with mean and covariance in place of real data."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from ddpm_lab.errors import UserError
from ddpm_lab.files import sha256

NAMES = (("mu", "sigma"), ("m2", "s2"))
"""Names of mean and covariance in pytorch-fid, clean-fid, guided-diffusion and EDM; in lucidrains' code."""
COUNT = "n"
"""Number of data, where a file holds it."""


class PublishedStats(NamedTuple):
    """Moments for `frechet_distance`. `n` is None where the file lacks it; `sha256` is that of the file."""

    mean: Float64[Tensor, " dim"]
    cov: Float64[Tensor, "dim dim"]
    n: int | None
    sha256: str


def read_published(path: str | Path, key: str = "reference") -> PublishedStats:
    """Reads an .npz without unpickling. Raises UserError that begins with `key`=`path` for another file, or without a finite
    mean and covariance of the same features."""
    path = Path(path).expanduser()
    arrays = _arrays(path, key)
    names = next((pair for pair in NAMES if set(pair) <= arrays.keys()), None)
    if names is None:
        allowed = " or ".join(" and ".join(pair) for pair in NAMES)
        raise UserError(f"{key}={path}: holds {', '.join(sorted(arrays)) or 'nothing'}; allowed are arrays named {allowed}.")
    mean, cov = (arrays[name] for name in names)
    if problem := _problem(mean, cov, arrays.get(COUNT)):
        raise UserError(f"{key}={path}: {names[0]} {list(mean.shape)} and {names[1]} {list(cov.shape)} {problem}.")
    n = int(arrays[COUNT]) if COUNT in arrays else None
    return PublishedStats(torch.from_numpy(mean.astype(np.float64)), torch.from_numpy(cov.astype(np.float64)), n, sha256(path))


def check_size(stats: PublishedStats, dim: int, extractor: str, source: str) -> None:
    """Raises UserError that begins with `source` unless the statistics are of `dim` features."""
    if len(stats.mean) != dim:
        raise UserError(f"{source}: these are statistics of {len(stats.mean)} features, and {extractor} gives {dim}.")


def _arrays(path: Path, key: str) -> dict[str, np.ndarray]:
    wanted = {name for pair in NAMES for name in pair} | {COUNT}  # some files hold images too, which are not read
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            if not isinstance(content, np.lib.npyio.NpzFile):
                raise UserError(f"{key}={path}: one array, not an .npz of several")
            return {name: content[name] if name in wanted else np.empty(0) for name in content.files}
    except UserError:
        raise
    except Exception as error:  # a damaged file can raise anything from zlib.error to MemoryError
        raise UserError(f"{key}={path}: not readable as .npz of plain arrays of numbers.") from error


def _problem(mean: np.ndarray, cov: np.ndarray, n: np.ndarray | None) -> str | None:
    """Why these are not statistics of features, None where they are."""
    if any(array.dtype.kind not in "fiu" for array in (mean, cov)):
        return "are not numbers"
    if mean.ndim != 1 or cov.shape != (len(mean), len(mean)) or not len(mean):
        return "are no mean and covariance of the same features"
    if not (np.isfinite(mean).all() and np.isfinite(cov).all()):
        return "are not finite"
    if np.abs(cov - cov.T).max() > 1e-3 * np.abs(cov).max() or (np.diagonal(cov) < 0).any():
        return "are no statistics: the second is no covariance (it is not symmetric, or has negative variances)"
    if n is not None and (n.shape != () or not np.issubdtype(n.dtype, np.integer) or n < 2):
        return f"stand beside an {COUNT} that is no number of data"
    return None
