"""Several sets of samples of one network, which differ in their sampling seed alone, and the mean of their scores."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from ddpm_lab.evaluation.subject import Choice, Subject
from ddpm_lab.metrics.record import Result


class SampleSet(NamedTuple):
    """How one set is drawn. The seed is that of the subject; what the choice rests on, as Γ, is measured with it too."""

    subject: Subject
    choice: Choice


def mean_of_sets(each: Sequence[Sequence[Result]]) -> list[Result]:
    """Of each score that every set has, the mean over the k sets, with the standard error s/√k, where s is the sample standard
    deviation over sets, or none where all values are equal, which says nothing of the error; the record has `sets`: k and
    `std`: s. All else is that of the first set, as are scores of real data. One set is returned as it is."""
    first, *others = each
    if not others:
        return [*first]
    later = [{result.key: result for result in one} for one in others]
    means = []
    for result in first:
        if result.record["split"] != "samples":
            means.append(result)
        elif all(result.key in one for one in later):
            means.append(_mean([result, *(one[result.key] for one in later)]))
    return means


def _mean(results: Sequence[Result]) -> Result:
    """NaN where a value is not finite."""
    values, k = tuple(result.value for result in results), len(results)
    known = all(map(math.isfinite, values))
    s = stdev(values) if known else math.nan
    return results[0]._replace(
        label=f"{results[0].label}, mean of {k} sets",
        value=fmean(values) if known else math.nan,
        se=s / math.sqrt(k) if s else None,
        record=results[0].record | {"sets": k, "std": s if known else None},
        sets=values,
    )
