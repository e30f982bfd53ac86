"""Reading and writing of files. Each is written beside its target and renamed, so that no reader sees half of one."""

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The C parser, ten times faster, where it was built."""


def write_bytes(path: Path, content: bytes) -> None:
    """Writes beside the target, then renames. Raises OSError, and leaves what was there."""
    partial = path.with_name(f"{path.name}.tmp{os.getpid()}")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """UTF-8. The name of a file may be no text: what cannot be encoded is escaped."""
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


def new_folder(parent: Path) -> Path:
    """Date and time under `parent`, with a number where another took them in the same second; not made yet."""
    path = parent / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    numbered = (path.with_name(f"{path.name}_{i}") for i in range(2, 10**6))
    return path if not path.exists() else next(p for p in numbered if not p.exists())
