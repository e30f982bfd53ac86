"""A saved view of Weights & Biases for a group of runs: which choice is better, and how training went.

A view (Workspace) rather than a report: its set of runs is live, it can be filtered, grouped and sorted, and it is what the
page of a project shows; a report is a document, whose panels each carry a set of runs of their own. This module needs
wandb-workspaces: see `group.require`.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import wandb_workspaces.workspaces as ws
from wandb_workspaces.reports.v2 import interface as wr

from ddpm_lab.compare.choices import TARGET, Arm, compared, flattened
from ddpm_lab.compare.folders import RunFolder
from ddpm_lab.compare.group import Group
from ddpm_lab.compare.measures import named
from ddpm_lab.errors import UserError

PICTURES = ("samples/grid", "samples/progression", "final/vlb_plot")
TABLES = ("final/results", "final/vlb_terms")
PARTS = ("val/kl_bpd", "val/prior_bpd", "val/decoder_bpd")
TRAINING = {
    "training loss": ("train/loss",),
    "training loss by quarter of t": tuple(f"train/loss_q{i}" for i in (1, 2, 3, 4)),
    "gradient norm": ("train/grad_norm",),
    "learning rate": ("train/lr",),
    "images per second": ("train/images_per_s",),
}
RUNS = 200
"""That a panel shows at most."""
UNWRITABLE = r"[=<>'\"\\]"
"""What wandb-workspaces changes or cannot read in the value of a filter."""


class Known(NamedTuple):
    """Of the runs: the keys of the configuration that differ, the judged numbers, as summary.json names them, and those of
    them that validation measures too."""

    axes: list[str]
    measures: list[str]
    validated: list[str]


UNSEEN = Known(
    [f"{group}{TARGET}" for group in ("schedule", "loss", "variance")], ["bound_bpd", "pixels_fd"], ["bound_bpd", "pixels_fd"]
)
"""Where no run can be looked at: the choices that most sweeps vary, and the metrics of the default."""


def of_folders(runs: Sequence[RunFolder]) -> Known:
    keys = [f"final/{key}" for run in runs for key in run.numbers] + [key for run in runs for key in run.curves]
    return _known([run.config for run in runs], keys)


def of_group(runs: Sequence[Any]) -> Known:
    """wandb's runs: those that are ddpm-lab's. One that has not ended has the numbers of its validations."""
    own = [run for run in runs if isinstance(run.config.get("schedule"), dict) and isinstance(run.config.get("seed"), int)]
    return _known([run.config for run in own], [key for run in own for key in run.summary_metrics])


def _known(configs: Sequence[dict[str, Any]], logged: Sequence[str]) -> Known:
    """What differs is found as compare.py finds it: a choice that another decides is no axis of its own."""
    arms = [Arm(RunFolder(Path(str(i)), config, {}, {}), flattened(config), {}) for i, config in enumerate(configs)]
    flat = {key for arm in arms for key in arm.flat}
    axes = [key if key in flat else f"{key}{TARGET}" for key in (compared(arms, {}).free if arms else [])]
    validated = _judged(logged, "val/")
    finals = _judged(logged, "final/") or validated
    return Known(axes, finals, validated) if finals else Known(axes, UNSEEN.measures, UNSEEN.validated)


def _judged(logged: Sequence[str], room: str) -> list[str]:
    """The bound first."""
    keys = dict.fromkeys(key.removeprefix(room) for key in logged if key.startswith(room))
    return sorted((key for key in keys if named(key).judged), key=lambda key: key != "bound_bpd")


def workspace(group: Group, title: str, known: Known) -> ws.Workspace:
    """The view, not saved. Raises UserError for a group whose name the package cannot put into a filter."""
    if found := re.search(UNWRITABLE, group.name):
        raise UserError(f"group={group.name}: wandb-workspaces cannot filter by a name with {found[0]}; rename the group")
    columns = ["config:seed.value", *(_column(axis) for axis in known.axes), *(f"summary:final/{m}" for m in known.measures)]
    return ws.Workspace(
        entity=group.entity or "",
        project=group.project,
        name=title,
        sections=_sections(known),
        settings=ws.WorkspaceSettings(max_runs=RUNS),
        runset_settings=ws.RunsetSettings(
            filters=ws.And(ws.Metric("Group") == group.name),
            groupby=[ws.Config(axis) for axis in known.axes],
            order=[ws.Ordering(ws.Summary(f"final/{known.measures[0]}"), ascending=True)],
            pinned_columns=["run:displayName", *columns],
        ),
    )


def _column(key: str) -> str:
    """A nested configuration has its `value` behind the first part of the key."""
    first, dot, rest = key.partition(".")
    return f"config:{first}.value{dot}{rest}"


def _sections(known: Known) -> list[ws.Section]:
    axes = [wr.ParallelCoordinatesPlotColumn(metric=wr.Config(axis)) for axis in known.axes]
    finals = [wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric(f"final/{key}")) for key in known.measures]
    first, *others = known.measures
    better: list[Any] = [_bars(key) for key in known.measures]
    better += [_against(first, other) for other in others]
    better += [wr.ParallelCoordinatesPlot(title="choices and what came of them", columns=[*axes, *finals])]
    validation: list[Any] = [_line(f"{named(key).label} in validation", (f"val/{key}",)) for key in known.validated]
    validation += [_line("parts of the bound in validation", PARTS)]
    training: list[Any] = [_line(title, keys) for title, keys in TRAINING.items()]
    samples: list[Any] = [
        wr.MediaBrowser(title=key, media_keys=[key], grid_x_axis="step", grid_y_axis="run") for key in PICTURES
    ]
    tables: list[Any] = [*(wr.WeavePanelSummaryTable(table_name=key) for key in TABLES), wr.RunComparer(diff_only="split")]
    return [
        ws.Section(name="Which is better", panels=better, is_open=True, pinned=True),
        ws.Section(name="Validation", panels=validation, is_open=True),
        ws.Section(name="Samples: a row per run, a column per step", panels=samples, is_open=True),
        ws.Section(name="Training", panels=training),
        ws.Section(name="Tables, and what differs", panels=tables),
    ]


def _line(title: str, keys: Sequence[str]) -> wr.LinePlot:
    """Of grouped runs the mean, in a band from the lowest to the highest seed."""
    return wr.LinePlot(
        title=title, x="Step", y=list(keys), groupby_aggfunc="mean", groupby_rangefunc="minmax", max_runs_to_show=RUNS
    )


def _bars(key: str) -> wr.BarPlot:
    return wr.BarPlot(
        title=f"{named(key).label}, {'higher' if named(key).better > 0 else 'lower'} is better; mean over seeds",
        metrics=[f"final/{key}"],
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
        max_runs_to_show=RUNS,
        max_bars_to_show=RUNS,
    )


def _against(x: str, y: str) -> wr.ScatterPlot:
    title = f"{named(y).label} against {named(x).label}"
    return wr.ScatterPlot(title=title, x=wr.SummaryMetric(f"final/{x}"), y=wr.SummaryMetric(f"final/{y}"))


def specification(view: ws.Workspace) -> dict[str, Any]:
    """What `save` would send, as plain data."""
    return json.loads(view._to_model().model_dump_json(by_alias=True, exclude_none=True))
