"""What samples cost: the seconds that each piece of them took, where it was drawn, and the work of one sample."""

import json
import math
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ddpm_lab import ranks
from ddpm_lab.evaluation.store import Piece
from ddpm_lab.evaluation.subject import Choice, Subject
from ddpm_lab.metrics.record import Plain, Result, record

KEY = "sampling_seconds"
CPUINFO = Path("/proc/cpuinfo")


def timed(draw: Callable[[], Piece], subject: Subject) -> Piece:
    """The piece that `draw` makes on the CPU, with `seconds`, the wall-clock time of that alone (float64), and `drawn_on`, where
    it was drawn (JSON as uint8)."""
    place = {
        "device": torch.cuda.get_device_name(subject.device) if subject.device.type == "cuda" else subject.device.type,
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "batch": subject.batch,
        "processes": ranks.world(),
        "machine": platform.node(),
    }
    begun = time.perf_counter()
    piece = draw()
    seconds = torch.tensor(time.perf_counter() - begun, dtype=torch.float64)
    return {**piece, "seconds": seconds, "drawn_on": torch.tensor([*json.dumps(place).encode()], dtype=torch.uint8)}


def cpu_name() -> str:
    """As Linux has it, else as Python does."""
    lines = CPUINFO.read_text(errors="replace").splitlines() if CPUINFO.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(named), platform.processor() or platform.machine())


def sampling_seconds(subject: Subject, choice: Choice, pieces: Sequence[Piece], n: int) -> Result:
    """Seconds per 1,000 samples: the sum over the pieces, whoever drew them and whenever. NaN where some piece is of a version
    that took no time; the label and `untimed_pieces` of the record say so."""
    known = [(float(piece["seconds"]), json.loads(bytes(piece["drawn_on"].tolist()))) for piece in pieces if "seconds" in piece]
    seconds, untimed = math.fsum(spent for spent, _ in known), len(pieces) - len(known)
    work: dict[str, Any] = {"calls": choice.steps, "products": 0, **choice.record_of_samples}
    work |= {"seconds": None if untimed else seconds} | _where([place for _, place in known])
    label = "sampling, seconds per 1,000 samples"
    if untimed:
        work["untimed_pieces"] = untimed
        label += f" ({untimed} of {len(pieces)} pieces were drawn by a version that took no time)"
    how = record(n=n, split="samples", unit="s per 1,000 samples", **{**subject.record, **work})
    return Result(KEY, label, math.nan if untimed else 1000 * seconds / n, None, how)


def _where(places: Sequence[dict[str, Any]]) -> dict[str, Plain]:
    """Of all pieces: how many machines drew them, and each other field, several values one after the other."""
    fields: dict[str, Plain] = {"machines": len({place.pop("machine") for place in places})} if places else {}
    for name in dict.fromkeys(name for place in places for name in place):
        values = list(dict.fromkeys(place[name] for place in places))
        fields[name] = values[0] if len(values) == 1 else ", ".join(map(str, values))
    return fields
