"""Likelihoods of a trained model: its measurements, made piece by piece through the store."""

from typing import Any

from ddpm_lab.evaluation.store import Piece
from ddpm_lab.evaluation.subject import Subject
from ddpm_lab.metrics.record import Result, record
from ddpm_lab.models.measurement import Measurement, Number

Meters = dict[int, Any]


def measured(subject: Subject, measurement: Measurement, done: Meters) -> Any:
    """The meter of a measurement with all its data; those in `done` are not read again."""
    if id(measurement) in done:
        return done[id(measurement)]
    required = [measured(subject, other, done) for other in measurement.requires]

    def work(start: int, stop: int) -> Piece:
        meter = measurement.meter(*required)
        meter.add(subject.x0(measurement.split, start, stop), start)
        return meter.state()

    whole, identity = measurement.meter(*required), subject.identity | measurement.identity
    pieces = subject.store.pieces(measurement.kind, identity, measurement.n, measurement.piece, work, measurement.title)
    for piece in pieces:
        whole.merge(piece)
    done[id(measurement)] = whole
    return whole


def results(subject: Subject, measurement: Measurement, done: Meters) -> list[Result]:
    """Its numbers with their records."""
    meter, required = measured(subject, measurement, done), [done[id(other)] for other in measurement.requires]

    def result(number: Number) -> Result:
        fields: dict[str, Any] = {**subject.record, **number.fields}
        of_number = record(n=measurement.n, split=measurement.split, **fields)
        return Result(number.key, number.label, number.value, number.se, of_number, number.level)

    return [result(number) for number in measurement.numbers(meter, *required)]
