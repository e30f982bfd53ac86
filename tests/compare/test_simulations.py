"""Some of `make soak`'s synthetic sweeps, and the judge itself on folders that hold the same numbers."""

import numpy as np
import simulations

from compare.synthetic import config, write_run
from ddpm_lab.compare.report import report

SWEEPS = 500


def test_what_is_promised_holds_in_some_hundred_sweeps():
    """Within three standard errors more than `make soak` allows of thousands."""
    results = {result.name: result for result in simulations.simulated(SWEEPS, 1)}
    assert results.keys() >= simulations.ALLOWED.keys()
    for name, value, count, low, high in results.values():
        slack = 0.0 if name.startswith("bias") else 3 * (0.05 * 0.95 / count) ** 0.5
        assert low - slack <= value <= high + slack, name
    assert results["(the same by the ordinary test)"].value > 0.15
    assert results["(a false 'beats', where each choice makes something else of a generation seed)"].value > 0.15


def test_the_judge_says_of_folders_what_the_simulations_say_of_their_numbers(tmp_path):
    rng, said = np.random.default_rng(0), []
    for number in range(24):
        sweep = simulations.drawn(rng, most=(4, 4, 1))
        numbers = sweep.y[:, :, 0]
        for arm, of_choice in enumerate(numbers):
            for seed, value in enumerate(of_choice):
                cfg = config(seed, optim__lr=1e-3 * (1 + arm))
                write_run(tmp_path / f"{number}" / f"{arm}_{seed}", cfg, bpd=value)
        (study,) = report([tmp_path / f"{number}"], "optim.lr=0.001", 0.95, {}).studies
        (column,) = [column for column in study.judged if column.measure.key == "bound_bpd"]
        verdicts = [column.comparisons[choice].verdict for choice in study.compared.choices[1:]]
        signs = {"better": -1, "worse": 1, "not": 0}
        assert [signs.get(verdict, 0) for verdict in verdicts] == simulations.claims(numbers).tolist()
        said += verdicts
    assert {"better", "worse", "open"} <= set(said)
