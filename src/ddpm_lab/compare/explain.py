"""Why the number of a run differs from a published one: the knobs in which the two differ, and what is known of each."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ddpm_lab.compare.choices import MISSING, OptionNames, Target, flat_config
from ddpm_lab.compare.measures import common_key
from ddpm_lab.compare.papers import ALL, CONFIGURED, KINDS, RECORDED, Facts, Kind, Known, Paper, Remark, known_effects, same
from ddpm_lab.compare.run_folder import EvaluatedArm, Number, RunFolder
from ddpm_lab.metrics.record import Record, current

FLOOR = 0.013
"""Standard deviation of FID between training seeds, relative to it: about 1.3% (1 to 2%) at every size and budget of several
hundred SiT runs (The FID Lottery, arXiv 2606.20536)."""
OMITTED = ("clip_cov", "max_last_noise")
"""Fields that a record of samples lacks where they are none."""
KEYS = {"fid": r"fid(@\d+)?", "bits": r"bound_bpd|bound|bound_chain"}
"""Which numbers of a run are of a quantity, by their common keys."""


class Arm(NamedTuple):
    """A number of a run, as trained or as evaluated; without a number, the run itself."""

    label: str
    words: frozenset[str]
    """By which a user may name it."""
    number: Number | None
    facts: Facts


class Effect(NamedTuple):
    """What is known of a difference. `change`: yours less published; `size`: of a remark, without a direction."""

    says: str
    source: str
    change: float | None = None
    size: float | None = None
    unverified: bool = False


class Difference(NamedTuple):
    knobs: tuple[str, ...]
    """The first, and settings that go with it."""
    yours: tuple[object, ...]
    published: tuple[object, ...]
    effect: Effect | None

    @property
    def kind(self) -> Kind:
        return KINDS[self.knobs[0]]


class Explanation(NamedTuple):
    paper: Paper
    arm: Arm
    differences: list[Difference]
    """What makes another quantity first, then by the size of the known effect, then by kind."""
    agreed: list[str]
    unstated: list[str]
    """Knobs that the run has no record of."""

    @property
    def barred(self) -> list[Difference]:
        """For which the two numbers may not be held against each other."""
        return [difference for difference in self.differences if difference.kind is Kind.OTHER]

    @property
    def known(self) -> list[Difference]:
        return [d for d in self.differences if d.effect is not None and d.effect.change is not None]

    @property
    def open(self) -> list[Difference]:
        """Whose effect no number is known of."""
        return [d for d in self.differences if d not in self.known]

    @property
    def rest(self) -> float | None:
        """The part of the difference of the two numbers that published effects leave."""
        if self.arm.number is None or self.barred:
            return None
        changes = [d.effect.change for d in self.known if d.effect is not None and d.effect.change is not None]
        return self.arm.number.value - self.paper.value - sum(changes)


def arms(run: RunFolder, quantity: str, options: OptionNames) -> list[Arm]:
    """The numbers of the quantity that a run has, as trained first; or the run without one."""
    made = []
    parts: list[tuple[str, EvaluatedArm | None, Mapping[str, Number]]] = [("as trained", None, run.numbers)]
    for arm in run.evaluated:
        chosen = ", ".join(f"{key}={value}" for key, value in arm.choice.items())
        parts.append((f"{arm.folder.name}: {chosen}", arm, arm.numbers))
    for label, arm, numbers in parts:
        for key, number in numbers.items():
            if re.fullmatch(KEYS[quantity], common_key(key, number)):
                words = {"trained"} if arm is None else {arm.folder.name, *_words(arm)}
                several = f", {key}" if quantity == "bits" else ""
                made.append(Arm(label + several, frozenset({*words, key}), number, facts(run, number.record, options)))
    return made or [Arm("no such number", frozenset(), None, facts(run, None, options))]


def _words(arm: EvaluatedArm) -> list[str]:
    return [word for key, value in arm.choice.items() for word in (str(value), f"{key}={value}")]


def facts(run: RunFolder, record: Record | None, options: OptionNames) -> Facts:
    """The knobs of a number, from its record and the run's configuration; without those that are on neither."""
    flat, record = flat_config(run.config), current(record or {})
    known: Facts = {}
    for knob in (knob for knobs in CONFIGURED.values() for knob in knobs):
        if knob in flat and flat[knob] != MISSING:
            value = flat[knob]
            is_target = isinstance(value, Target)
            known[knob] = options.get((knob, str(value)), str(value).rpartition(".")[2]) if is_target else value
    step = record.get("step", run.summary.get("step"))
    if type(step) is int and type(batch := flat.get("data.batch_size")) is int:
        known["images"] = step * batch
    known |= {knob: record[knob] for knobs in RECORDED.values() for knob in knobs if knob in record}
    known |= {knob: record.get(knob) for knob in OMITTED if "sampler" in record}
    if "steps" in known and known["steps"] == record.get("T", flat.get("schedule.T")):
        known["steps"] = ALL
    return known


def explain(candidates: Sequence[Arm], papers: Sequence[Paper], quantity: str) -> Explanation:
    """Of the pair that may be compared and differs in fewest knobs; of equal ones the later number."""
    tables, remarks = known_effects()

    def distance(pair: tuple[Arm, Paper]) -> tuple[int, int]:
        arm, paper = pair
        differing = [knob for knob in paper.facts if knob in arm.facts and not _agree(knob, arm, paper)]
        return sum(KINDS[knob] is Kind.OTHER for knob in differing), len(differing)

    arm, paper = min(((arm, paper) for arm in reversed(candidates) for paper in papers), key=distance)
    return _explained(arm, paper, quantity, tables, remarks)


def _agree(knob: str, arm: Arm, paper: Paper) -> bool:
    return same(knob, arm.facts[knob], paper.facts[knob])


def _explained(arm: Arm, paper: Paper, quantity: str, tables: Sequence[Known], remarks: Sequence[Remark]) -> Explanation:
    """From the published protocol to that of the arm, knob by knob; each effect is that of its knob after those before it."""
    stated = [knob for knob in KINDS if knob in paper.facts and knob in arm.facts]
    differing = [knob for knob in stated if not _agree(knob, arm, paper)]
    agreed = [knob for knob in stated if knob not in differing]
    others = tuple(f"{knob}." for knob in differing)  # settings of another option
    unstated = [knob for knob in KINDS if knob in paper.facts and knob not in arm.facts and not knob.startswith(others)]
    state, differences = dict(paper.facts), []
    while differing:
        group = _together(differing, arm, paper)
        differing = [knob for knob in differing if knob not in group]
        after = state | {knob: arm.facts[knob] for knob in group}
        if "sampler" in group:
            after |= {knob: arm.facts[knob] for knob in RECORDED[Kind.SAMPLER] if knob in arm.facts and knob not in differing}
        effect = _of_tables(group, state, after, quantity, tables) or _of_remarks(group[0], arm, quantity, remarks)
        yours, published = (tuple(each.facts[knob] for knob in group) for each in (arm, paper))
        differences.append(Difference(tuple(group), yours, published, effect))
        state = after
    return Explanation(paper, arm, sorted(differences, key=_rank), agreed, unstated)


def _together(differing: Sequence[str], arm: Arm, paper: Paper) -> list[str]:
    """The first knob; with another sampler, the settings that only one of the two has; with a learned variance, its loss."""
    first, *others = differing
    if first == "variance" and any(str(each.facts[first]).startswith("learned") for each in (arm, paper)):
        return [first, *(knob for knob in others if knob == "loss")]
    if first != "sampler":
        return [first]
    own = [knob for knob in others if KINDS[knob] is Kind.SAMPLER and None in (arm.facts[knob], paper.facts[knob])]
    return [first, *own]


def _of_tables(group: Sequence[str], before: Facts, after: Facts, quantity: str, tables: Sequence[Known]) -> Effect | None:
    """By the first table that has both numbers."""
    for table in tables:
        a, b = (table.value(facts, quantity) for facts in (before, after))
        if table.varies(group) and a is not None and b is not None:
            between = "" if a.published and b.published else ", interpolated"
            says = f"{b.value:.2f} against {a.value:.2f}{between}"
            return Effect(says, table.source, change=b.value - a.value, unverified=table.unverified)
    return None


def _of_remarks(knob: str, arm: Arm, quantity: str, remarks: Sequence[Remark]) -> Effect | None:
    value = arm.facts[knob]
    for remark in remarks:
        within = remark.up_to is None or (isinstance(value, int | float) and value <= remark.up_to)
        if remark.knob == knob and within and remark.of in (None, quantity):
            return Effect(remark.says, remark.source, size=remark.about)
    return None


def _rank(difference: Difference) -> tuple[bool, float, int]:
    effect = difference.effect
    size = 0.0 if effect is None else abs(effect.change if effect.change is not None else effect.size or 0.0)
    return difference.kind is not Kind.OTHER, -size, list(Kind).index(difference.kind)
