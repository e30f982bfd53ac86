"""Reads what wandb wrote: a file of records in LevelDB's log format, each a protobuf."""

import json
import struct
import time
from pathlib import Path
from typing import Any

BLOCK = 32768
HEADER = 7
"""Bytes before the first record of the file, and before each piece of a record (checksum, length, kind)."""
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(path: Path) -> list[Any]:
    """Every record of the file that is there in full, in order."""
    from wandb.proto import wandb_internal_pb2

    content, position, pieces, result = path.read_bytes(), HEADER, b"", []
    assert content[:4] == b":W&B"
    while position + HEADER <= len(content):
        if BLOCK - position % BLOCK < HEADER:  # padding
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + HEADER])
        assert kind in (FULL, FIRST, MIDDLE, LAST)
        if position + HEADER + length > len(content):  # still being written
            break
        pieces += content[position + HEADER : position + HEADER + length]
        position += HEADER + length
        if kind in (FULL, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(pieces)
            result.append(record)
            pieces = b""
    return result


def finished(path: Path) -> list[Any]:
    """The records once the last is there: wandb's own process writes the end of the file."""
    for _ in range(200):
        result = records(path)
        if result and result[-1].WhichOneof("record_type") == "exit":
            return result
        time.sleep(0.05)
    raise AssertionError(f"{path}: not finished")


class WandbRun:
    """One offline run: what it would send."""

    def __init__(self, folder: Path) -> None:
        self.files = folder / "files"
        (self.path,) = folder.glob("*.wandb")
        self.config: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.exit_code: int | None = None
        self.artifacts: list[str] = []
        self.models: dict[str, dict[str, Path]] = {}
        self.saved: list[str] = []
        for record in finished(self.path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                self.run = record.run
                self.config |= _items(record.run.config.update)
            elif kind == "config":
                self.config |= _items(record.config.update)
            elif kind == "summary":
                self.summary |= _items(record.summary.update)
            elif kind == "history":
                self.history.append({"step": record.history.step.num} | _items(record.history.item))
            elif kind == "files":
                paths = [file.path for file in record.files.files]
                self.saved += [path for path in paths if "/" in path and not path.startswith("media/")]  # none of wandb's own
            elif kind == "exit":
                self.exit_code = record.exit.exit_code
            elif kind == "artifact":
                sent = {entry.path: Path(entry.local_path) for entry in record.artifact.manifest.contents}
                self.artifacts += map(str, sent.values())
                if record.artifact.type == "model":
                    self.models[record.artifact.name] = sent

    def values(self, key: str) -> dict[int, Any]:
        """A curve, by step."""
        return {row["step"]: row[key] for row in self.history if key in row}

    def table(self, key: str, step: int) -> dict[str, Any]:
        return json.loads((self.files / self.values(key)[step]["path"]).read_text())


def _items(update: Any) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for item in update:
        *parents, last = item.nested_key or [item.key]
        node = result
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = json.loads(item.value_json)
    return result


def runs(run_dir: Path) -> list[WandbRun]:
    """The offline runs of a run folder, oldest first."""
    return [WandbRun(folder) for folder in sorted((run_dir / "wandb").glob("offline-run-*"))]
