"""Where what has no name goes."""

from datetime import datetime
from pathlib import Path


def new_folder(parent: Path) -> Path:
    """Date and time under `parent`, with a number where another took them in the same second; not made yet."""
    path = parent / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    numbered = (path.with_name(f"{path.name}_{i}") for i in range(2, 10**6))
    return path if not path.exists() else next(p for p in numbered if not p.exists())
