"""The tables of docs/variances.md, from what studies/variance.py measured.

    python studies/variance_tables.py outputs/variance/digits
    python studies/variance_tables.py FILE.csv outputs/variance/photographs --keep FILE.csv

Every place is a folder of runs or a file that --keep wrote, with the numbers of each seed, so that they outlive their runs. Of
a number that two places have, the later place's counts.

Means over the training seeds that are there, with Student's 95% intervals as ±; differences are paired by seed. One seed has no
interval. Numbers are those of the evaluations that studies/variance.py names; which run has which seed, its config.yaml says.
"""

import argparse
import csv
import json
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from scipy.stats import t as student

RUNGS = ("beta", "beta_tilde", "interpolated", "learned_range", "learned_diagonal", "analytic")
RUNGS += ("hutchinson", "sn_square", "sn", "npr", "ocm", "lanczos", "exact")
PAIRS = (("lanczos", "ocm"), ("lanczos", "npr"), ("ocm", "npr"), ("sn", "npr"), ("ocm", "analytic"), ("npr", "analytic"))
PAIRS += (("beta_tilde", "analytic"), ("analytic", "beta"), ("interpolated", "beta"), ("interpolated", "analytic"))
PAIRS += (("lanczos", "interpolated"), ("lanczos", "beta"))
EVALUATIONS = ("ladder_*", "square_*", "full_*", "beside_*", "bits_*", "all_steps_*", "exact")
"""Of studies/variance.py; others may be of other seeds."""
OF_BOUND = {"bound": "bits/dim", "kl": "divergences", "mismatch": "what variances cost of them", "decoder": "L_0"}


class Choice(NamedTuple):
    measure: str
    n: int
    """Of data, or of samples: numbers of different n stand in different tables."""
    spacing: str
    sampler: str
    variance: str
    steps: int


Numbers = dict[Choice, dict[int, float]]
"""By training seed."""


def numbers_of(folder: Path) -> Numbers:
    """Everything that was measured of the runs in a folder."""
    found: Numbers = defaultdict(dict)
    for path in (path for name in EVALUATIONS for path in sorted(folder.glob(f"*/eval/{name}/evaluation.json"))):
        seed = yaml.safe_load((path.parents[2] / "config.yaml").read_text())["seed"]
        for arm in json.loads(path.read_text())["arms"]:
            for result in arm["results"]:
                of_bound = re.fullmatch(r"bound(_\d+)?(_estimate)?_?(\w*)", result["key"])
                name = (of_bound[3] or "bound") if of_bound else result["key"]
                sampler = "any" if of_bound else arm["sampler"]
                record = result["record"]
                choice = Choice(name, record["n"], record["spacing"] or "", sampler, arm["variance"], arm["steps"])
                found[choice][seed] = result["value"]
    return found


def kept_in(file: Path) -> Numbers:
    """What `keep` wrote."""
    found: Numbers = defaultdict(dict)
    with file.open(newline="") as lines:
        for row in csv.DictReader(lines):
            seed, value = int(row.pop("seed")), float(row.pop("value"))
            found[Choice(**row | {"n": int(row["n"]), "steps": int(row["steps"])})][seed] = value
    return found


def keep(numbers: Numbers, file: Path) -> None:
    """A line for each number of each seed, of those that tables show."""
    shown = [c for c in sorted(numbers) if c.measure in OF_BOUND or is_frechet(c.measure.removesuffix("_real"))]
    with file.open("w", newline="") as out:
        lines = csv.writer(out, lineterminator="\n")
        lines.writerow((*Choice._fields, "seed", "value"))
        lines.writerows((*c, seed, f"{value:.7g}") for c in shown for seed, value in sorted(numbers[c].items()))


def with_interval(values: Iterable[float], digits: int = 3, sign: str = "") -> str:
    """Mean ± half the 95% interval over seeds."""
    x = np.array(list(values))
    mean = f"{x.mean():{sign}.{digits}f}".replace("-", "−")
    if len(x) < 2:
        return mean
    return f"{mean} ± {student.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)):.{digits}f}"


Kind = tuple[str, int, str, str]
"""All of a choice but variance and steps."""


def title(kind: Kind) -> str:
    measure, n, spacing, sampler = kind
    return f"{OF_BOUND.get(measure, measure)}, n = {n}, {spacing or 'all times'}" + ("" if sampler == "any" else f", {sampler}")


def table(numbers: Numbers, kind: Kind) -> None:
    """A row for each rung, a column for each number of steps."""
    chosen = [c for c in numbers if c[:4] == kind]
    steps = sorted({c.steps for c in chosen})
    print(f"\n{title(kind)}")
    print(f"\n| variance | {' | '.join(map(str, steps))} |\n|---|{'---|' * len(steps)}")
    for rung in sorted({c.variance for c in chosen}, key=RUNGS.index):
        cells = [numbers.get(Choice(*kind, rung, n), {}) for n in steps]
        print(f"| {rung} | {' | '.join(with_interval(cell.values()) if cell else '–' for cell in cells)} |")
    if kind[3] == "ddim":
        print("\nPlain DDIM (η = 0) uses none of beta, beta_tilde and interpolated: their samples are the same.")
    for value, n in {(v, c.n) for c in numbers if c.measure == f"{kind[0]}_real" for v in numbers[c].values()}:
        print(f"\nThe same of {n} held-out data: {value:.3f}")


def differences(numbers: Numbers, kind: Kind) -> None:
    """Of two rungs, paired by seed: the first less the second. A row for each pair that some seed has."""
    steps = sorted({c.steps for c in numbers if c[:4] == kind})
    print(f"\n{title(kind)}: paired differences\n\n| difference | {' | '.join(map(str, steps))} |\n|---|{'---|' * len(steps)}")
    for pair in PAIRS:
        both = [[numbers.get(Choice(*kind, rung, n), {}) for rung in pair] for n in steps]
        paired = [[one[seed] - other[seed] for seed in one if seed in other] for one, other in both]
        if any(paired):
            cells = (with_interval(of_seeds, sign="+") if of_seeds else "–" for of_seeds in paired)
            print(f"| {' − '.join(pair)} | {' | '.join(cells)} |")


def is_frechet(measure: str) -> bool:
    """Whether it is a Fréchet distance of samples; a key names their number where it is not the usual one."""
    return re.fullmatch(r"\w+_fd(@\d+)?", measure) is not None


def main(places: Iterable[Path], kept: Path | None) -> None:
    numbers: Numbers = defaultdict(dict)
    for place in places:
        for choice, by_seed in (numbers_of(place) if place.is_dir() else kept_in(place)).items():
            numbers[choice] |= by_seed
    kinds = sorted({c[:4] for c in numbers if c.measure in OF_BOUND or is_frechet(c.measure)})
    for kind in kinds:
        table(numbers, kind)
        if kind[0] in ("bound", "kl", "decoder") or is_frechet(kind[0]):
            differences(numbers, kind)
    if kept is not None:
        keep(numbers, kept)


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("places", nargs="+", type=Path)
    words.add_argument("--keep", type=Path, metavar="FILE.csv")
    given = words.parse_args()
    if missing := [str(place) for place in given.places if not place.exists()]:
        words.error(f"not there: {', '.join(missing)}")
    main(given.places, given.keep)
