"""Published results as data: how each number was measured and its network trained (papers/), and what is known of single knobs
(known_effects.yaml)."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ddpm_lab.errors import UserError
from ddpm_lab.files import Loader
from ddpm_lab.metrics.record import Plain

FOLDER = Path(__file__).with_name("papers")
Facts = dict[str, Plain]
"""Values by knob; lists as JSON."""
ALL = "all"
"""The value of steps where they are all T of the chain."""
ABSENT = "absent"
"""In a file that builds on another: the knob is not stated."""
NEAR = 0.05
"""How far outside a published range, relative to its end, a value is still taken for its end."""


class Kind(Enum):
    """What a knob changes. Differences whose effect is not known are shown in this order."""

    OTHER = "another quantity"
    MEASURE = "the measure"
    WEIGHTS = "the weights"
    SAMPLER = "the sampler"
    TRAINING = "the training"


RECORDED = {
    Kind.OTHER: ("extractor", "extractor_weights_sha256"),
    Kind.MEASURE: ("n", "reference", "n_reference", "split"),
    Kind.WEIGHTS: ("weights",),
    Kind.SAMPLER: ("sampler", "eta", "variance", "steps", "spacing", "clip", "clip_cov", "max_last_noise"),
}
"""Knobs that are fields of the record of a number."""
CONFIGURED = {
    Kind.OTHER: ("data", "data.crop", "data.size"),
    Kind.WEIGHTS: ("ema.decay", "ema.ramp"),
    Kind.TRAINING: (
        *("prediction", "loss", "schedule", "schedule.beta_start", "schedule.beta_end", "schedule.offset", "schedule.max_beta"),
        *("schedule.T", "images", "timesteps", "data.validation", "data.flip", "data.batch_size", "net", "net.channels"),
        *("net.multipliers", "net.blocks", "net.attention", "net.heads", "net.scale_shift", "net.dropout"),
        *("optim.lr", "optim.betas", "optim.weight_decay", "optim.warmup", "optim.clip", "optim.decay"),
    ),
}
"""Knobs that are keys of a run's configuration; `images`, those seen in training, is steps times batch."""
KINDS = {name: kind for kind in Kind for knobs in (RECORDED, CONFIGURED) for name in knobs.get(kind, ())}
"""By knob, in the order in which a published protocol is turned into another."""


class Quantity(NamedTuple):
    """A kind of published number, by its key in the files."""

    key: str
    label: str
    digits: int


QUANTITIES = {"fid": Quantity("fid", "FID", 2), "bits": Quantity("bits", "bits/dim", 2)}


class Paper(NamedTuple):
    """One published number, with all that is known of how it came about."""

    name: str
    source: str
    value: float
    unverified: bool
    facts: Facts
    notes: list[str]
    evaluate: str
    """What measures a run so: arguments of evaluate.py."""
    experiment: str
    """What trains a network so: an option of train.py, and further arguments."""


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def papers(name: str, quantity: str) -> list[Paper]:
    """The numbers of a published result, one for each number of steps that it was published for. Empty where it has none of
    the quantity. Raises UserError for a name that does not exist."""
    if name not in names():
        raise UserError(f"published={name}: no such result; allowed is {', '.join(names())}")
    content = _content(name)
    number = content.get(quantity)
    if number is None:
        return []
    values = number["value"] if isinstance(number["value"], dict) else {None: number["value"]}
    made = []
    for steps, value in values.items():
        facts = {knob: plain(fact) for knob, fact in {**number["measured"], **content["trained"]}.items()}
        facts |= {} if steps is None else {"steps": steps}
        command = content["evaluate"].replace("STEPS", str(steps))
        if steps == ALL:  # no spacing selects among them
            facts.pop("spacing", None)
            command = re.sub(r" sampler\.spacing=\w+", "", command).replace(f"={ALL}", "=null")
        unverified = steps in number.get("unverified", ())
        made.append(Paper(name, content["source"], value, unverified, facts, content["notes"], command, content["experiment"]))
    return made


def _content(name: str) -> dict[str, Any]:
    """Of a file, with what it takes from the one that it is `like`."""
    content = _yaml(FOLDER / f"{name}.yaml")
    return _merged(_content(content.pop("like")), content) if "like" in content else content


def _yaml(path: Path) -> dict[str, Any]:
    """Of this package's own files, whose keys may be numbers."""
    return yaml.load(path.read_text(encoding="utf-8"), Loader)


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings key by key, except the values of a number."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping) and key != "value"
        merged[key] = _merged(merged[key], value) if both else value
    return {key: value for key, value in merged.items() if value != ABSENT}


def plain(value: Any) -> Plain:
    return json.dumps(value, default=str) if isinstance(value, list) else value


class Row(NamedTuple):
    facts: Facts
    values: dict[str, float | dict[Plain, float]]
    """By quantity: a number, or numbers by the value of the table's `over`."""


class Found(NamedTuple):
    value: float
    published: bool
    """False for a number that is interpolated between published ones."""


class Known(NamedTuple):
    """A published table in which few knobs vary."""

    source: str
    unverified: bool
    given: Facts
    over: str | None
    rows: list[Row]

    def varies(self, knobs: Sequence[str]) -> bool:
        """Whether one of the knobs tells its numbers apart."""
        return any(knob == self.over or any(knob in row.facts for row in self.rows) for knob in knobs)

    def value(self, facts: Facts, quantity: str) -> Found | None:
        """The number under these facts; None where the table has none."""
        for row in self.rows:
            holds = {**self.given, **row.facts}
            if quantity in row.values and all(knob in facts and same(knob, facts[knob], holds[knob]) for knob in holds):
                found = row.values[quantity]
                if not isinstance(found, dict):
                    return Found(found, True)
                return between(found, facts.get(self.over or ""), facts.get("schedule.T"))
        return None


class Remark(NamedTuple):
    """What is known of a knob without a table. `about`: the size of its effect, for values of at most `up_to`."""

    knob: str
    says: str
    source: str
    up_to: float | None = None
    about: float | None = None
    of: str | None = None


def known_effects() -> tuple[list[Known], list[Remark]]:
    """Tables and remarks, those first that are to be preferred."""
    content = _yaml(Path(__file__).with_name("known_effects.yaml"))
    tables = []
    for table in content["tables"]:
        rows = [
            Row({k: v for k, v in row.items() if k not in QUANTITIES}, {k: row[k] for k in QUANTITIES if k in row})
            for row in table["rows"]
        ]
        tables.append(Known(table["source"], table.get("unverified", False), table["given"], table.get("over"), rows))
    return tables, [Remark(**remark) for remark in content["remarks"]]


def same(knob: str, a: Plain, b: Plain) -> bool:
    """Whether two values of a knob are one; of a sha256 the shorter decides."""
    if knob.endswith("sha256"):
        short, long = sorted((str(a), str(b)), key=len)
        return long.startswith(short)
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def between(values: Mapping[Plain, float], at: Plain, whole: Plain) -> Found | None:
    """The value at a place, or between two published ones: log value linear over log place. `whole`: the place of ALL. Nothing
    is extrapolated, but a place beyond an end by at most NEAR is taken for that end."""
    if at in values:
        return Found(values[at], True)
    known = {whole if place == ALL else place: value for place, value in values.items()}
    points = sorted((place, value) for place, value in known.items() if isinstance(place, int | float))
    if not isinstance(at, int | float) or not points[0][0] * (1 - NEAR) <= at <= points[-1][0] * (1 + NEAR):
        return None
    x = min(max(at, points[0][0]), points[-1][0])
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 <= x <= x1:
            return Found(y0 * (y1 / y0) ** (math.log(x / x0) / math.log(x1 / x0)), False)
    return None
