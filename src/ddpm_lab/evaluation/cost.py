"""What samples cost: the seconds that each piece of them took, where it was drawn, and the work of one sample."""

import json
import math
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ddpm_lab import cores, ranks
from ddpm_lab.evaluation.store import Piece
from ddpm_lab.evaluation.subject import Choice, Subject
from ddpm_lab.metrics.record import Plain, Result, record

KEY, LABEL = "sampling_seconds", "sampling, seconds per 1,000 samples"
BUSY = 0.1
"""The share of waiting from which it is said beside the number."""
CPUINFO = Path("/proc/cpuinfo")


def timed(draw: Callable[[], Piece], subject: Subject) -> Piece:
    """The piece that `draw` makes on the CPU; and as `cost`, JSON in uint8, the wall-clock seconds of the drawing alone, the
    share of them that threads waited for a core, and where it was drawn."""
    before, begun = cores.used(), time.perf_counter()
    piece = draw()
    cost = {
        "seconds": time.perf_counter() - begun,
        "waited": cores.used().share_waited_since(before),
        "device": torch.cuda.get_device_name(subject.device) if subject.device.type == "cuda" else subject.device.type,
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "batch": subject.batch,
        "processes": ranks.world(),
        "machine": platform.node(),
    }
    return piece | {"cost": torch.tensor([*json.dumps(cost).encode()], dtype=torch.uint8)}


def cpu_name() -> str:
    """As Linux has it, else as Python does."""
    lines = CPUINFO.read_text(errors="replace").splitlines() if CPUINFO.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(named), platform.processor() or platform.machine())


def sampling_seconds(subject: Subject, choice: Choice, pieces: Sequence[Piece], n: int, sets: int = 1) -> Result:
    """Seconds per 1,000 samples: the sum over the pieces of all sets of n samples, whoever drew them and whenever. NaN where
    some piece is of a version that took no time; the label and `untimed_pieces` of the record say so."""
    costs = [json.loads(bytes(piece["cost"].tolist())) for piece in pieces if "cost" in piece]
    seconds = math.fsum(cost["seconds"] for cost in costs)
    waited = math.fsum(cost["seconds"] * cost["waited"] for cost in costs)
    label, work = LABEL, {"calls": choice.steps, "products": 0, **choice.record_of_samples, **subject.compiled}
    if sets > 1:
        work["sets"] = sets
    if untimed := len(pieces) - len(costs):
        work["untimed_pieces"], seconds = untimed, math.nan
        label += f" ({untimed} of {len(pieces)} pieces were drawn by a version that took no time)"
    else:
        work |= {"seconds": seconds, "waited": round(waited / seconds, 4), **_where(costs)}
        label += f" (threads waited {waited / seconds:.0%} of it for a core)" if waited > BUSY * seconds else ""
    how = record(n=n, split="samples", unit="s per 1,000 samples", **{**subject.record, **work})
    return Result(KEY, label, 1000 * seconds / (n * sets), None, how)


def _where(costs: Sequence[dict[str, Any]]) -> dict[str, Plain]:
    """On how many machines; and of each further field the value, or several one after the other."""
    fields: dict[str, Plain] = {"machines": len({cost["machine"] for cost in costs})}
    for name in ("device", "cpu", "threads", "batch", "processes"):
        values = list(dict.fromkeys(cost[name] for cost in costs))
        fields[name] = values[0] if len(values) == 1 else ", ".join(map(str, values))
    return fields
