"""Numbers that are equal by construction: those that do not depend on anything in which two choices differ.

A choice of sampling (sampler, its steps, the reverse variance) reaches only some numbers: a bound depends on no sampler, and
samples depend on the variance only where the sampler uses it, as the record beside the number states (`variance: null`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ddpm_lab.compare.choices import EVALUATED, ComparedChoice, ComparedRun, Flat, OptionNames, as_yaml, differing_keys
from ddpm_lab.compare.measures import Measure, NumberKind
from ddpm_lab.compare.run_folder import Number
from ddpm_lab.metrics.record import Record

VARIANCE, SAMPLER, STEPS = "variance", "sampler", "steps"
UNUSED = {
    NumberKind.BOUND: {SAMPLER, STEPS},
    NumberKind.CHAIN_BOUND: {SAMPLER},
    NumberKind.FLOW: {SAMPLER, STEPS, VARIANCE},
    NumberKind.SAMPLES: set(),
    NumberKind.OTHER: set(),
}
"""Parts of the choice of sampling that a kind of number never depends on."""
DDIM_NAMES = "ddim"
"""Samplers whose name begins so use no fixed or learned variance. Records of older versions name the variance all the same."""


@dataclass(frozen=True)
class Copy:
    """The number equals that of `original` by construction."""

    original: ComparedChoice
    unused: tuple[str, ...]
    """The parts in which the two choices differ."""
    sampler: str | None
    """Of samples, the sampler that does not use them."""


def copies(
    measure: Measure, numbers: Mapping[ComparedChoice, Mapping[int, Number]], options: OptionNames
) -> dict[ComparedChoice, Copy]:
    """Each choice whose number must equal that of an earlier choice. `numbers`: by choice and seed, the baseline first."""
    if measure.kind is NumberKind.OTHER:
        return {}
    originals: dict[frozenset[tuple[str, str]], list[ComparedChoice]] = {}
    made: dict[ComparedChoice, Copy] = {}
    for choice in numbers:
        rest = frozenset((key, as_yaml(value)) for key, value in choice.first.flat.items() if _part(key) is None)
        alike = originals.setdefault(rest, [])
        copy = next(
            (copy for other in alike if (copy := _copy(measure, choice, other, numbers, options)) is not None),
            None,
        )
        if copy is None:
            alike.append(choice)
        else:
            made[choice] = copy
    return made


def _part(key: str) -> str | None:
    """The part of the choice of sampling that a key of the configuration belongs to."""
    group, _, name = key.removeprefix(EVALUATED).partition(".")
    if group == STEPS or (group == SAMPLER and name in ("steps", "spacing")):
        return STEPS
    return group if group in (VARIANCE, SAMPLER) else None


def _copy(
    measure: Measure,
    choice: ComparedChoice,
    other: ComparedChoice,
    numbers: Mapping[ComparedChoice, Mapping[int, Number]],
    options: OptionNames,
) -> Copy | None:
    seeds = [seed for seed in numbers[choice] if seed in numbers[other]]
    pairs = [(numbers[choice][seed], numbers[other][seed]) for seed in seeds]
    identical = all(a.value == b.value for a, b in pairs)
    one_network = all(choice.runs[seed].run.network == other.runs[seed].run.network for seed in seeds)
    parts = tuple(dict.fromkeys(filter(None, map(_part, differing_keys(choice.first.flat, other.first.flat)))))
    if not seeds or not parts or not (identical or one_network):
        return None
    records = [number.record for pair in pairs for number in pair]
    unused = set(UNUSED[measure.kind])
    if measure.kind is NumberKind.SAMPLES and not any(_uses_variance(record, identical) for record in records):
        unused.add(VARIANCE)
    if not unused.issuperset(parts):
        return None
    return Copy(other, parts, _sampler(choice.first, records[0], options) if measure.kind is NumberKind.SAMPLES else None)


def _uses_variance(record: Record, identical: bool) -> bool:
    sampler = record.get("sampler")
    if "variance" in record and record["variance"] is None:
        return sampler is None
    return not (identical and str(sampler).casefold().startswith(DDIM_NAMES))


def _sampler(run: ComparedRun, record: Record, options: OptionNames) -> str:
    """As the user types it, where known."""
    flat: Flat = run.flat
    option = flat.get(f"{EVALUATED}sampler") or options.get(("sampler", str(flat.get("sampler._target_"))))
    return str(option or record.get("sampler"))
