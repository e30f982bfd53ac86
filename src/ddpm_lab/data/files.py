"""Published files: downloaded with a progress bar and checked against their checksums."""

import hashlib
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

from tqdm import tqdm

from ddpm_lab.errors import UserError
from ddpm_lab.files import replacing


class Published(NamedTuple):
    """A file as its authors published it; `checksum` is "md5:…" or "sha256:…"."""

    name: str
    checksum: str
    urls: tuple[str, ...]


def sum_of_file(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def check_file(path: Path, checksum: str) -> None:
    """Raises UserError for a file that is not the published one."""
    algorithm = checksum.partition(":")[0]
    _compare(str(path), f"{algorithm}:{sum_of_file(path, algorithm)}", checksum)


def check_content(source: str, content: bytes, checksum: str) -> None:
    """Raises UserError, naming `source`, for a content that is not the published one."""
    algorithm = checksum.partition(":")[0]
    _compare(source, f"{algorithm}:{hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()}", checksum)


def _compare(source: str, actual: str, expected: str) -> None:
    if actual != expected:
        raise UserError(
            f"{source}: incomplete, damaged or another file: its checksum is {actual}, the published one {expected}; "
            "delete it, and download it again or copy the published file there."
        )


def fetch(root: Path, file: Published, download: bool) -> Path:
    """The path of `file` under `root`, downloaded if it is absent. Raises UserError that names the file and its place."""
    path = root / file.name
    if path.is_file():
        return path
    by_hand = f"get {file.urls[0]} by other means and put it at {path}"
    if not download:
        raise UserError(f"data.root={root}: {file.name} is not there, and data.download=false; allow it, or {by_hand}.")
    problems = []
    for url in file.urls:
        try:
            _download(url, path, file.checksum)
            return path
        except (OSError, HTTPException) as error:
            problems.append(f"{url}: {getattr(error, 'reason', None) or error}")
    raise UserError(f"data.root={root}: {file.name} is not there and cannot be downloaded ({'; '.join(problems)}): {by_hand}.")


def _download(url: str, path: Path, checksum: str) -> None:
    with replacing(path) as partial:
        with urlopen(url, timeout=30) as answer, partial.open("wb") as out:
            total = int(answer.headers.get("Content-Length") or 0) or None
            with tqdm(total=total, unit="B", unit_scale=True, desc=f"Downloading {path.name}") as bar:
                while block := answer.read(1 << 20):
                    out.write(block)
                    bar.update(len(block))
        algorithm, _, expected = checksum.partition(":")
        if sum_of_file(partial, algorithm) != expected:
            raise OSError(f"the download is not the published file, whose {algorithm} is {expected}")
