"""Numbers that are equal by construction: those that do not depend on anything in which two choices differ.

A choice of sampling (sampler, its steps, reverse variance, guidance) reaches only some numbers: a bound depends on no sampler
and no guidance, samples on the variance only where the sampler uses it, as the record of the number states (`variance: null`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ddpm_lab.compare.choices import EVALUATED, ComparedChoice, ComparedRun, OptionNames, as_yaml, differing_keys
from ddpm_lab.compare.measures import Measure, NumberKind
from ddpm_lab.compare.number import Number
from ddpm_lab.metrics.record import Record

VARIANCE, SAMPLER, STEPS, GUIDANCE = "variance", "sampler", "steps", "guidance"
UNUSED = {
    NumberKind.BOUND: {SAMPLER, STEPS, GUIDANCE},
    NumberKind.CHAIN_BOUND: {SAMPLER, GUIDANCE},
    NumberKind.FLOW: {SAMPLER, STEPS, VARIANCE, GUIDANCE},
    NumberKind.CONTINUOUS: {SAMPLER, STEPS, VARIANCE, GUIDANCE},
    NumberKind.SAMPLES: set(),
    NumberKind.DURATION: set(),
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
    originals: dict[frozenset[tuple[str, str]], list[ComparedChoice]] = {}
    made: dict[ComparedChoice, Copy] = {}
    for choice in numbers if measure.kind not in (NumberKind.DURATION, NumberKind.OTHER) else ():
        rest = frozenset((key, as_yaml(value)) for key, value in choice.first.flat.items() if _part(key) is None)
        alike = originals.setdefault(rest, [])
        for other in alike:
            pairs = {seed: (number, numbers[other][seed]) for seed, number in numbers[choice].items() if seed in numbers[other]}
            if unused := _unused(measure.kind, choice, other, pairs):
                sampler = None
                if measure.kind is NumberKind.SAMPLES:
                    sampler = _sampler(choice.first, next(iter(pairs.values()))[0].record, options)
                made[choice] = Copy(other, unused, sampler)
                break
        else:
            alike.append(choice)
    return made


def _part(key: str) -> str | None:
    """The part of the choice of sampling that a key of the configuration belongs to."""
    group, _, name = key.removeprefix(EVALUATED).partition(".")
    if group == STEPS or (group == SAMPLER and name in ("steps", "spacing")):
        return STEPS
    return group if group in (VARIANCE, SAMPLER, GUIDANCE) else None


def _unused(
    kind: NumberKind, choice: ComparedChoice, other: ComparedChoice, pairs: Mapping[int, tuple[Number, Number]]
) -> tuple[str, ...]:
    """The parts in which two choices differ, where numbers of the kind depend on none of them; empty else. `pairs`: by seed."""
    identical = all(a.value == b.value for a, b in pairs.values())
    one_network = all(choice.runs[seed].run.network == other.runs[seed].run.network for seed in pairs)
    if not pairs or not (identical or one_network):
        return ()
    parts = tuple(dict.fromkeys(filter(None, map(_part, differing_keys(choice.first.flat, other.first.flat)))))
    unused = set(UNUSED[kind])
    if kind is NumberKind.SAMPLES and not any(_uses_variance(n.record, identical) for pair in pairs.values() for n in pair):
        unused.add(VARIANCE)
    return parts if unused.issuperset(parts) else ()


def _uses_variance(record: Record, identical: bool) -> bool:
    sampler = record.get("sampler")
    if "variance" in record and record["variance"] is None:
        return sampler is None
    return not (identical and str(sampler).casefold().startswith(DDIM_NAMES))


def _sampler(run: ComparedRun, record: Record, options: OptionNames) -> str:
    """As the user types it, where known."""
    option = run.flat.get(f"{EVALUATED}sampler") or options.get(("sampler", str(run.flat.get("sampler"))))
    return str(option or record.get("sampler"))
