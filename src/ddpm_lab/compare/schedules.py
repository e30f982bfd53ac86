"""The schedules of the choices, built from their configurations: the one place here that loads torch."""

import html
from typing import Any

import numpy as np

from ddpm_lab.compare.curves import line, thinned
from ddpm_lab.compare.figures import Figure, axis, layout
from ddpm_lab.compare.table import Study
from ddpm_lab.errors import UserError


def schedules(study: Study, problems: list[str]) -> list[Figure]:
    """ᾱ and log-SNR over t/T, a line for each schedule that differs; nothing where they cannot be built here."""
    from ddpm_lab.config.build import schedule_of  # torch, seconds

    tables: dict[str, tuple[Any, np.ndarray]] = {}
    for choice in study.compared.choices:
        run = next(iter(choice.arms.values())).run
        key = str(sorted(run.config["schedule"].items(), key=str))
        if key not in tables:
            try:
                tables[key] = (choice, schedule_of(run.config).alphas_bar.numpy())
            except (UserError, RuntimeError, ValueError) as error:  # torch's and OmegaConf's, of what they cannot make
                told = f"{_name(choice, study)}: this schedule is not plotted: {str(error).splitlines()[0]}"
                problems += [told] * (told not in problems)
    signal, snr = [], []
    for choice, alphas_bar in tables.values():
        kept = thinned(len(alphas_bar))
        u, ab = np.linspace(0, 1, len(alphas_bar))[kept], alphas_bar[kept]
        name = _name(choice, study)
        with np.errstate(divide="ignore"):
            log_snr = np.log(ab) - np.log1p(-ab)
        inner = np.isfinite(log_snr)
        for data, x, y in ((signal, u, ab), (snr, u[inner], log_snr[inner])):
            data.append(line(study, choice, x.round(5).tolist(), y, "t/T") | {"name": html.escape(name, quote=False)})
    if not tables:
        return []
    alt, x = f"{{}} of {len(tables)} schedules against t/T.", axis("t / T")
    return [
        Figure("ᾱ: what is left of the signal's variance", alt.format("ᾱ"), signal, layout(xaxis=x, yaxis=axis("ᾱ"))),
        Figure("Signal-to-noise ratio", alt.format("Log signal-to-noise ratio"), snr,
               layout(xaxis=x, yaxis=axis("log ᾱ / (1 − ᾱ)"))),
    ]  # fmt: skip


def _name(choice: Any, study: Study) -> str:
    """By what of its schedule differs."""
    own = [value for key, value in choice.values.items() if key == "schedule" or key.startswith("schedule.")]
    if own:
        return ", ".join(own)
    return str(next(iter(choice.arms.values())).run.config["schedule"].get("_target_", "schedule")).rpartition(".")[2]
