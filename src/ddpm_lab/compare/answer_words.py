"""The answer in words: which choice is best, and what cannot be told from it."""

from collections.abc import Sequence
from itertools import zip_longest

from ddpm_lab.compare.answer import Answer
from ddpm_lab.compare.choices import ComparedChoice
from ddpm_lab.compare.report import ComparisonReport, Study
from ddpm_lab.compare.words import decimal, digits_of

MOST = 7
"""Sentences."""
NAMED = 3
"""Choices of a list that are named; the others are counted."""


def answer_lines(report: ComparisonReport) -> list[str]:
    """A sentence for each judged measure, at most MOST in all: the first measures of each study in turn."""
    by_study = [[(study, answer) for answer in study.answers] for study in report.studies]
    every = [each for group in zip_longest(*by_study) for each in group if each is not None]
    shown = every if len(every) <= MOST else every[: MOST - 1]
    start = "{}, on" if len(report.studies) > 1 else "On"
    shown.sort(key=lambda each: report.studies.index(each[0]))  # stable
    lines = [f"{start.format(study.stage.value)} {_sentence(study, answer)}" for study, answer in shown]
    return lines + [f"{len(every) - len(shown)} more measures are in the tables."] * (len(shown) < len(every))


def _sentence(study: Study, answer: Answer) -> str:
    """From the measure on."""
    apart = [choice for choice in study.compared.choices if choice not in answer.column.copies]
    n, all_of_them = len(answer.ranked), len(apart)
    head = answer.measure.label + (f" ({n} of {all_of_them} choices can be ranked)" if n < all_of_them else "")
    if not answer.best:
        return f"{head}, nothing can be said."
    value = decimal(answer.value, digits_of(answer.column))
    others = len(answer.open) + len(answer.worse)
    if not others:
        return f"{head}, {_equal(answer, value)}."
    best = f"{_listed(answer.best)} {'has' if len(answer.best) == 1 else 'have'} the best"
    if not answer.replicated:
        return f"{head}, {best} number ({value}), but nothing is settled: no two choices share two seeds."
    if not answer.worse:
        return f"{head}, {best} mean ({value}), but {_untold(answer.open)}."
    if not answer.open:
        worse = f"{answer.worse[0].label} is" if others == 1 else f"the other {others} are"
        return f"{head}, {_listed(answer.best)} {'is' if len(answer.best) == 1 else 'are'} best ({value}); {worse} worse."
    worse = f"{answer.worse[0].label} is" if len(answer.worse) == 1 else f"the other {len(answer.worse)} are"
    return f"{head}, {best} mean ({value}); {_untold(answer.open)}; {worse} worse."


def _equal(answer: Answer, value: str) -> str:
    """Where no choice differs from another."""
    if len(answer.best) > 1:
        return f"{_listed(answer.best)} are equal ({value})"
    why = "the others equal it by construction" if answer.column.copies else "there is nothing to compare it with"
    return f"{answer.best[0].label} has {value}; {why}"


def _untold(choices: Sequence[ComparedChoice]) -> str:
    return f"{_listed(choices)} cannot be told from it"


def _listed(choices: Sequence[ComparedChoice]) -> str:
    """A, B and C; of many the first and the number of the others."""
    labels = [choice.label for choice in choices]
    if len(labels) > NAMED + 1:
        labels = [*labels[:NAMED], f"{len(labels) - NAMED} more"]
    return " and ".join([", ".join(labels[:-1])] * (len(labels) > 1) + labels[-1:])
