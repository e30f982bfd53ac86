"""The answer in words: which choice is best, and what cannot be told from it."""

from collections.abc import Iterator, Sequence
from itertools import zip_longest

from ddpm_lab.compare.answer import Answer
from ddpm_lab.compare.cautions import counted
from ddpm_lab.compare.choices import ComparedChoice
from ddpm_lab.compare.judge import Column
from ddpm_lab.compare.report import ComparisonReport, Study
from ddpm_lab.compare.words import decimal, digits_of, listed_seeds

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
    if not every:
        return ["No run has a number that is judged: evaluate them by python evaluate.py ckpt=RUN."]
    lines = [f"{start.format(study.stage.value)} {_sentence(study, answer)}" for study, answer in shown]
    return lines + [f"{len(every) - len(shown)} more measures are in the tables."] * (len(shown) < len(every))


def _sentence(study: Study, answer: Answer) -> str:
    """From the measure on."""
    apart = [choice for choice in study.compared.choices if choice not in answer.column.copies]
    n, all_of_them = len(answer.ranked), len(apart)
    if not answer.best:
        return f"{answer.measure.label}, nothing can be said: no choice has it in each of its seeds."
    remarks = [f"{n} of {counted(all_of_them, 'choice')} can be ranked"] * (n < all_of_them) + [*ranked_on(answer.column)]
    head, digits = answer.measure.label + (f" ({'; '.join(remarks)})" if remarks else ""), digits_of(answer.column)
    single = [
        f"{choice.label} ({decimal(answer.column.estimates[choice].value, digits)})" for choice in answer.column.ranking.single
    ]
    rest = f" Of one seed, so not ranked: {_listed(single)}." if single else ""
    return f"{head}, {_claims(answer, decimal(answer.value, digits))}.{rest}"


def ranked_on(column: Column) -> Iterator[str]:
    """On which seeds, where choices have different ones."""
    ranking = column.ranking
    if not ranking.alike:
        yield f"on seeds {listed_seeds(ranking.seeds)}, which they share" if ranking.seeds else "by means over different seeds"


def marked_as_best(study: Study) -> str:
    """Which means of the tables are marked."""
    rankings = [column.ranking for column in study.main]
    several = " of choices with several seeds" * any(ranking.single for ranking in rankings)
    return f"best mean{several}" + ", on the seeds that they share" * any(not r.alike and r.seeds for r in rankings)


def _claims(answer: Answer, value: str) -> str:
    """Which is best, what is worse, and what is neither."""
    others, several = len(answer.ranked) - len(answer.best), len(answer.best) > 1
    if not others:
        return _equal(answer, value)
    best = f"{_listed_choices(answer.best)} {'have' if several else 'has'} the best"
    if not answer.replicated:
        return f"{best} number ({value}), but nothing is settled: no two choices share two seeds"
    n = len(answer.worse)
    worse = f"{answer.worse[0].label} is" if n == 1 else f"the other {n} are"
    if n == others:
        return f"{_listed_choices(answer.best)} {'are' if several else 'is'} best ({value}); {worse} worse"
    opposite = f"{_listed_choices(answer.opposite)} {'is' if len(answer.opposite) == 1 else 'are'} better on the seeds of both"
    untold = f"{_listed_choices(answer.open)} cannot be told from it"
    parts = [opposite] * bool(answer.opposite) + [untold] * bool(answer.open) + [f"{worse} worse"] * bool(n)
    return f"{best} mean ({value}){'; ' if n else ', but '}{'; '.join(parts)}"


def _equal(answer: Answer, value: str) -> str:
    """Where no choice differs from another."""
    if len(answer.best) > 1:
        return f"{_listed_choices(answer.best)} are equal ({value})"
    why = "the others equal it by construction" if answer.column.copies else "there is nothing to compare it with"
    return f"{answer.best[0].label} has {value}; {why}"


def _listed_choices(choices: Sequence[ComparedChoice]) -> str:
    return _listed([choice.label for choice in choices])


def _listed(labels: Sequence[str]) -> str:
    """A, B and C; of many the first and the number of the others."""
    if len(labels) > NAMED + 1:
        labels = [*labels[:NAMED], f"{len(labels) - NAMED} more"]
    return " and ".join([", ".join(labels[:-1])] * (len(labels) > 1) + list(labels[-1:]))
