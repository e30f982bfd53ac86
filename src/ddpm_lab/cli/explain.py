"""`python compare.py explain RUN published=NAME`: why a number differs from a published one."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ddpm_lab.cli.arguments import read, there
from ddpm_lab.compare.explain import FLOOR, Arm, Difference, Explanation, arms, explain
from ddpm_lab.compare.papers import QUANTITIES, RECORDED, Quantity, names, papers
from ddpm_lab.compare.run_folder import RunFolder, read_runs
from ddpm_lab.compare.words import NONE, decimal
from ddpm_lab.config.options import conf_dir, nearest, option_names
from ddpm_lab.errors import UserError
from ddpm_lab.plain import visible

USAGE = """\
Explain why the number of a run differs from a published one: which knob is it?

  python compare.py explain RUN published=ddpm_cifar10     a run folder, or one evaluation of it: RUN/eval/NAME
  python compare.py explain RUN published=NAME arm=trained which of the run's numbers, by words: arm=ddim,steps=50
  python compare.py explain RUN published=NAME of=bits     bits/dim in place of FID

What the records of the run state is held against how the published number was measured and its network trained. Shown are the
knobs that differ, with the published effect of each. Published results:
"""
KEYS = ("published", "arm", "of")
AT_95 = 1.96 * 2**0.5
"""Standard deviations of one run, within which two runs differ in 95% of pairs."""


class Arguments(NamedTuple):
    run: Path
    published: str
    arm: str | None
    quantity: Quantity


def explain_run(argv: Sequence[str]) -> None:
    """Prints the explanation. Raises UserError for anything that cannot be explained."""
    if not argv:
        print(USAGE + "\n".join(f"  {name}" for name in names()))
        return
    asked = parsed(argv)
    run, evaluation = _run(asked.run)
    published = papers(asked.published, asked.quantity.key)
    if not published:
        raise UserError(f"of={asked.quantity.key}: published={asked.published} has no {asked.quantity.label}")
    found = explain(_chosen(run, evaluation, asked), published, asked.quantity.key)
    print("\n".join(map(visible, lines(found, run.path, asked.quantity))))


def parsed(argv: Sequence[str]) -> Arguments:
    """Raises UserError for anything but a folder and known keys."""
    others, given = read(argv, KEYS)
    if len(others) != 1:
        raise UserError(f"explain: takes one run folder, and {len(others)} were named{': ' * bool(others)}{', '.join(others)}")
    if not there(others[0]):
        raise UserError(f"{others[0]}: no such folder; allowed is a run folder")
    if (name := given.get("published")) is None:
        raise UserError(f"published= is missing; allowed is published=NAME with one of {', '.join(names())}")
    if name not in names():
        close = nearest(name, names())
        meant = f"; did you mean {close}?" if close else ""
        raise UserError(f"published={name}: no such result; allowed is {', '.join(names())}{meant}")
    if (of := given.get("of", "fid")) not in QUANTITIES:
        raise UserError(f"of={of}: allowed is {', '.join(QUANTITIES)}")
    return Arguments(Path(others[0]).expanduser(), name, given.get("arm"), QUANTITIES[of])


def _run(path: Path) -> tuple[RunFolder, str | None]:
    """The run, and the name of its evaluation where one was named."""
    evaluation = None
    if (path / "evaluation.json").is_file() and (path.resolve().parents[1] / "config.yaml").is_file():
        path, evaluation = path.resolve().parents[1], path.resolve().name
    runs, skipped = read_runs([path])
    if not runs:
        raise UserError("; ".join(f"{skip.path}: {skip.why}" for skip in skipped) or f"{path}: no run folder")
    if len(runs) > 1:
        some = ", ".join(str(run.path) for run in runs[:3])
        raise UserError(f"{path}: has {len(runs)} runs, and one is explained; name one of {some}{', …' * (len(runs) > 3)}")
    if "schedule" not in runs[0].config:
        raise UserError(
            f"{path}: has no schedule; the published results are of diffusion models, and only such runs are explained"
        )
    return runs[0], evaluation


def _chosen(run: RunFolder, evaluation: str | None, asked: Arguments) -> list[Arm]:
    """The numbers among which the nearest is explained. Raises UserError where the user's words fit none."""
    every = arms(run, asked.quantity.key, option_names([conf_dir()]))
    words = [word.strip() for word in (asked.arm or "").split(",") if word.strip()] + [evaluation] * (evaluation is not None)
    fitting = [arm for arm in every if arm.words.issuperset(words)]
    if every[0].number is None and asked.arm is not None:
        raise UserError(f"arm={asked.arm}: {run.path} has no {asked.quantity.label}; allowed is no arm=")
    if not fitting and every[0].number is not None:
        what = f"arm={asked.arm}" if asked.arm is not None else f"{asked.run}"
        raise UserError(f"{what}: no {asked.quantity.label} has that; allowed is one of: {'; '.join(a.label for a in every)}")
    return fitting or every


def lines(found: Explanation, run: Path, quantity: Quantity) -> Iterator[str]:
    """What is not comparable, the table of differences, and what they leave open."""
    paper, number = found.paper, found.arm.number
    mark = " (unverified)" if paper.unverified else ""
    yield f"{run} against {paper.name}: {paper.source}"
    if number is None:
        yield f"{quantity.label}: the run has none; published is {paper.value:.{quantity.digits}f}{mark}"
    else:
        difference = decimal(number.value - paper.value, quantity.digits, sign=True)
        against = f"against {paper.value:.{quantity.digits}f}{mark}: {difference}"
        yield f"{quantity.label}: {decimal(number.value, quantity.digits)} ({found.arm.label}) {against}"
    if found.barred:
        yield f"Not comparable: another {', another '.join(' '.join(d.knobs) for d in found.barred)}."
    if found.differences:
        yield ""
        yield from _table([("knob", "yours", "published", f"known effect on {quantity.label}", "source"), *_rows(found)])
    yield ""
    yield from _conclusion(found, quantity)
    yield from (f"note: {note}" for note in paper.notes)
    yield from _advice(found, run, quantity)


def _rows(found: Explanation) -> Iterator[tuple[str, ...]]:
    for d in found.differences:
        yours, published = (", ".join(map(_shown, values)) for values in (d.yours, d.published))
        yield ", ".join(d.knobs), yours, published, _effect(d), d.effect.source if d.effect else NONE


def _effect(difference: Difference) -> str:
    effect = difference.effect
    if effect is None:
        return "not known"
    if effect.change is None:
        return effect.says
    return f"{decimal(effect.change, 2, sign=True)} ({effect.says}{', unverified' * effect.unverified})"


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    heads, *others = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    yield from (heads, "─" * len(heads), *others)


def _conclusion(found: Explanation, quantity: Quantity) -> Iterator[str]:
    agree = f"{len(found.agreed)} knobs agree"
    if found.unstated:
        agree += f"; not on record: {', '.join(found.unstated)}"
    yield f"{agree}."
    if not found.differences:
        yield "Nothing differs in what is on record."
    if found.known:
        yield "Effects are as published, of one knob after the other; of other networks they may be others."
    if found.open:
        yield f"No number is known for: {', '.join(d.knobs[0] for d in found.open)}."
    rest, floor = found.rest, AT_95 * FLOOR * found.paper.value
    if rest is not None:
        of = f"{decimal(rest, quantity.digits, sign=True)} is"
        yield f"{of} not explained by known effects." if found.known else f"{of} the difference of the two numbers."
        if quantity.key == "fid":
            beyond = "Beside it stands" if found.open else "That is beyond"  # what is open may have made the difference
            where = "That is within" if abs(rest) <= floor else beyond
            spread = f"a standard deviation of {FLOOR:.1%} between training seeds (of SiT; The FID Lottery, arXiv 2606.20536)"
            yield f"{where} the floor of retraining: with {spread}"
            yield f"two runs differ by less than {floor:.2f} in 95% of pairs."


def _advice(found: Explanation, run: Path, quantity: Quantity) -> Iterator[str]:
    """What to type for a number that is measured as the published one was."""
    recorded = [knob for knobs in RECORDED.values() for knob in knobs]
    if found.arm.number is None or any(d.knobs[0] in recorded for d in found.differences):
        yield f"To measure {quantity.label} so: python evaluate.py ckpt={run} {found.paper.evaluate}"
    if any(d.knobs[0] not in recorded for d in found.differences):
        yield f"To train so: python train.py experiment={found.paper.experiment}"
