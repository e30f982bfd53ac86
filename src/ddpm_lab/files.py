"""Reading and writing of files. Each is written beside its target and renamed, so that no reader sees half of one."""

import fcntl
import hashlib
import itertools
import json
import os
import shutil
import socket
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from ddpm_lab.errors import UserError
from ddpm_lab.plain import walked
from ddpm_lab.signals import work_begins

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
    """Raises OSError, UnicodeDecodeError, or yaml.YAMLError, as well for what `walked` refuses."""
    content = yaml.load(path.read_text(encoding="utf-8"), Loader)
    try:
        for _ in walked(content):
            pass
    except ValueError as error:
        raise yaml.YAMLError(str(error)) from error
    return content


def sha256(path: Path) -> str:
    """Of the content, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


SUMS = "SHA256SUMS"
"""Beside results, as `sha256sum -c` reads it."""


def write_sums(folder: Path, patterns: Iterable[str]) -> None:
    """Writes the sha256 of the files in a folder that match, each on a line with its name."""
    paths = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    write_text(folder / SUMS, "".join(f"{sha256(path)}  {path.name}\n" for path in paths))


def is_as_written(path: Path) -> bool:
    """Whether a file has the sha256 that stands beside it; true where none does, as in folders of versions before 0.2."""
    if not (sums := path.with_name(SUMS)).exists():
        return True
    return f"{sha256(path)}  {path.name}" in sums.read_text(encoding="utf-8", errors="replace").splitlines()


def check_as_written(path: Path) -> None:
    """Raises UserError for a file that was changed or damaged since it was written, and OSError."""
    if not is_as_written(path):
        raise UserError(f"{path.name} was changed or damaged since it was written: its sha256 is not that of {SUMS}")


SEAL = b"sha256:"
SEALED = len(SEAL) + 64


def seal(archive: BinaryIO) -> None:
    """Appends the sha256 of a zip archive to it, as the archive's comment, whose length stands in the two bytes before."""
    archive.seek(-2, os.SEEK_END)
    archive.write(SEALED.to_bytes(2, "little"))
    archive.write(SEAL + _digest(archive, archive.tell()))


def is_intact(archive: BinaryIO) -> bool:
    """Whether an archive has the sha256 with which it was sealed; true for one that never was. Ends at its start."""
    size = archive.seek(0, os.SEEK_END)
    archive.seek(max(0, size - SEALED))
    comment = archive.read()
    intact = not comment.startswith(SEAL) or comment == SEAL + _digest(archive, size - SEALED)
    archive.seek(0)
    return intact


def is_whole(path: Path) -> bool:
    """Whether there is an intact archive."""
    with path.open("rb") as archive:
        return is_archive(archive)


def is_archive(file: BinaryIO) -> bool:
    """Whether it is an intact zip archive of files that are not compressed: a small compressed one can fill the memory. Ends at
    its start."""
    try:
        whole = is_intact(file) and all(entry.compress_type == zipfile.ZIP_STORED for entry in zipfile.ZipFile(file).infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        whole = False
    file.seek(0)
    return whole


def check_links(folder: Path, key: str, within: str = "") -> None:
    """Raises UserError, which begins with the key by which a folder was given, for a link in it that leads out of it: what is
    written to the folder would be written elsewhere. `within`: the part of the folder that is looked at. Checkpoints may lie
    elsewhere, and Weights & Biases has links to its logs."""
    inside = f"{os.path.realpath(folder)}{os.sep}"
    for path in [folder / within, *(folder / within).rglob("*")]:
        parts = path.relative_to(folder).parts
        elsewhere = parts == ("checkpoints",) or (parts[:1] == ("wandb",) and parts[-2:-1] == ("logs",))
        if path.is_symlink() and parts and not elsewhere and not os.path.realpath(path).startswith(inside):
            raise UserError(f"{key}: {path} is a link to {os.path.realpath(path)}; allowed are links within the folder")


def _digest(file: BinaryIO, size: int) -> bytes:
    """The sha256 of the first `size` bytes, as hexadecimal digits. Ends behind them."""
    file.seek(0)
    digest = hashlib.sha256()
    while size and (block := file.read(min(size, 2**20))):
        digest.update(block)
        size -= len(block)
    return digest.hexdigest().encode()


def cache_root() -> Path:
    """The folder for what is kept between runs: DDPM_LAB_CACHE, or ~/.cache/ddpm-lab."""
    return Path(os.environ.get("DDPM_LAB_CACHE") or "~/.cache/ddpm-lab").expanduser()


def new_folder(parent: Path, key: str) -> Path:
    """A new folder under `parent` named by date and time."""
    return made(parent / datetime.now().strftime("%Y-%m-%d_%H-%M-%S"), key)


def made(path: Path, key: str) -> Path:
    """`path`, with a number if it exists. It is made here, so that no other process has it. Raises UserError that begins with
    the key by which the place was chosen."""
    for place in itertools.chain([path], (path.with_name(f"{path.name}_{i}") for i in itertools.count(2))):
        with unwritable(place, key), suppress(FileExistsError):
            place.mkdir(parents=True)
            return place
    raise AssertionError


def check_free(path: Path, key: str) -> None:
    """Raises UserError, which begins with the key by which the place was chosen, where something is there already."""
    if os.path.lexists(path):
        raise UserError(f"{key}={path}: exists, and nothing is overwritten: choose another folder")


@contextmanager
def new_whole(path: Path, key: str) -> Iterator[Path]:
    """Yields an empty folder beside `path` to write to. When the block ends, its files are synced and it is renamed to `path`.
    If the block raises, also `Stopped`, it goes, and so do the folders that were made. Raises UserError, which begins with the
    key by which the place was chosen, where something is there already or nothing can be written."""
    work_begins()
    with unwritable(path, key):
        check_free(path, key)
        made = [folder for folder in path.parents if not folder.exists()]
        partial = path.with_name(f".{path.name}.tmp.{os.getpid()}")
        try:
            partial.mkdir(parents=True)
            yield partial
            for file in (file for file in partial.rglob("*") if file.is_file()):
                with file.open("rb") as content:
                    os.fsync(content.fileno())
            partial.rename(path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            with suppress(OSError):  # a folder may hold other files by now
                for folder in made:
                    folder.rmdir()
            raise


@contextmanager
def unwritable(path: Path, key: str) -> Iterator[None]:
    """Around what makes or writes `path`: an OSError raises UserError that begins with the key by which it was chosen."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{key}: {path} cannot be made or written to ({error.strerror}): choose another folder") from error


LOCK = ".lock"


@contextmanager
def held(folder: Path, key: str) -> Iterator[None]:
    """Holds the lock of a folder, a file that says who has it; the lock ends with the process. A folder that is not there is
    made, and one that holds nothing else in the end is removed. Raises UserError while another process has the lock."""
    with unwritable(folder, key):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+b", buffering=0)
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            who = file.read().decode(errors="replace") or "another process"
            raise UserError(f"{key}: {folder} is in use by {who}; wait until it has ended, or choose another") from error
        except OSError:  # a file system without locks
            pass
        with suppress(OSError):  # a full disk
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        try:
            yield
        finally:
            if [path.name for path in folder.iterdir()] == [LOCK]:
                (folder / LOCK).unlink()
                with suppress(OSError):  # not empty
                    for place in (folder, *folder.parents[:2]):
                        place.rmdir()
