"""Cores that this process may use, and how long its threads wait for them."""

import os
from pathlib import Path
from typing import NamedTuple

THREADS = Path("/proc/self/task")


def use_granted() -> str | None:
    """Limits torch to as many threads as this process may use cores, unless OMP_NUM_THREADS says how many. The quota of a
    container leaves all cores of the machine in sight, and torch takes a thread for each. Returns what was changed."""
    import torch
    from joblib import cpu_count  # knows affinity and quotas

    threads, granted = torch.get_num_threads(), cpu_count()
    if "OMP_NUM_THREADS" in os.environ or threads <= granted:
        return None
    torch.set_num_threads(granted)
    return f"{granted} of {threads} threads: this process may use no more cores"


class Cores(NamedTuple):
    """Seconds that the threads of this process have run, and have waited for a core. Both are 0 where the system does not count
    them."""

    ran: float
    waited: float

    def share_waited_since(self, before: "Cores") -> float:
        ran, waited = self.ran - before.ran, self.waited - before.waited
        return waited / (ran + waited) if ran + waited > 0 else 0.0


def used() -> Cores:
    """By Linux's scheduler."""
    try:
        counts = [path.read_text().split() for path in THREADS.glob("*/schedstat")]
    except OSError:  # no Linux, or a thread that has just ended
        counts = []
    return Cores(sum(int(ran) for ran, *_ in counts) / 1e9, sum(int(waited) for _, waited, *_ in counts) / 1e9)
