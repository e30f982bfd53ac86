"""Reading and writing of files. Each is written beside its target and renamed, so that no reader sees half of one."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The C parser where PyYAML has it: ten times faster."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a name beside `path` to write to. When the block ends, the file is synced and renamed to `path`, whose folder is
    made if it is absent. If the block raises, nothing is changed: the file goes, and so do the folders that were made."""
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.tmp.{os.getpid()}{path.suffix}")  # libraries look at the suffix
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        with suppress(OSError):  # a folder may hold other files by now
            for folder in made:
                folder.rmdir()
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Raises OSError, and leaves the file as it was."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """UTF-8. Surrogates, as in names of files that are not UTF-8, are escaped."""
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def write_json(path: Path, content: Any, indent: int | None = 2) -> None:
    """Indented, with letters as they are, and a newline at the end."""
    write_text(path, json.dumps(content, indent=indent, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Raises OSError, or ValueError for what is not JSON."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_yaml(path: Path) -> Any:
    """Raises OSError, yaml.YAMLError, or UnicodeDecodeError."""
    return yaml.load(path.read_text(encoding="utf-8"), Loader)


def sha256(path: Path) -> str:
    """Of the content, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_root() -> Path:
    """The folder for what is kept between runs: DDPM_LAB_CACHE, or ~/.cache/ddpm-lab."""
    return Path(os.environ.get("DDPM_LAB_CACHE") or "~/.cache/ddpm-lab").expanduser()


def new_folder(parent: Path) -> Path:
    """A path under `parent` named by date and time. The folder is not made."""
    return unused(parent / datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))


def unused(path: Path) -> Path:
    """`path`, with a number if it exists."""
    numbered = (path.with_name(f"{path.name}_{i}") for i in range(2, 10**6))
    return path if not path.exists() else next(p for p in numbered if not p.exists())
