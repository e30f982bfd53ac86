"""A saved view of Weights & Biases for a group of runs: which choice is better, and the course of training.

A view (Workspace) and not a report: its set of runs is live, it can be filtered, grouped and sorted, and the page of a project
shows it; a report is a document in which each panel has its own set of runs. This module needs wandb-workspaces (see
`errors.require`).
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import wandb_workspaces.workspaces as ws
from wandb_workspaces.reports.v2 import interface as wr

from ddpm_lab.compare.choices import ComparedRun, Target, flat_config, grouped
from ddpm_lab.compare.group import Group
from ddpm_lab.compare.measures import measure_of
from ddpm_lab.compare.run_folder import RunFolder, is_run, read_runs
from ddpm_lab.errors import UserError

MEDIA = ("samples/grid", "samples/progression", "final/vlb_plot")
TABLES = ("final/results", "final/vlb_terms")
BOUND_CURVES = ("val/kl_bpd", "val/prior_bpd", "val/decoder_bpd")
TRAINING_CURVES = {
    "training loss": ("train/loss",),
    "training loss by quarter of t": tuple(f"train/loss_q{i}" for i in (1, 2, 3, 4)),
    "gradient norm": ("train/grad_norm",),
    "learning rate": ("train/lr",),
    "images per second": ("train/images_per_s",),
}
RUNS = 200
"""Of a panel at most."""
GROUPED: dict[str, Any] = {"groupby_aggfunc": "mean", "groupby_rangefunc": "minmax", "max_runs_to_show": RUNS}
UNWRITABLE = r"[=<>'\"\\]"
"""Characters that wandb-workspaces changes or cannot read in the value of a filter."""


class GroupContent(NamedTuple):
    axes: list[str]
    """Keys of the configuration that differ."""
    measures: list[str]
    """Keys of the judged numbers in summary.json."""
    validated: list[str]
    """Those that validation measures too."""


DEFAULT_CONTENT = GroupContent(
    ["schedule._target_", "loss._target_", "variance._target_"], ["bound_bpd", "pixels_fd"], ["bound_bpd", "pixels_fd@256"]
)
"""Where no run can be read: the choices that most sweeps vary, and the metrics of the default experiment."""


def content_of(folder: Path | None, runs: Sequence[Any] | None) -> GroupContent:
    """Of the runs below the folder, else of wandb's runs, else what most sweeps have. A run of wandb that has not ended has the
    numbers of its validations. Raises UserError for a folder without a run that has ended."""
    if folder is not None:
        found, skipped = read_runs([folder])
        if not found:
            why = [f"  {skip.path}: {skip.why}" for skip in skipped]
            raise UserError("\n".join([f"{folder}: no run that has ended; without the folder, group= is enough", *why]))
        keys = [f"final/{key}" for run in found for key in run.numbers] + [key for run in found for key in run.history]
        return _content([run.config for run in found], keys)
    if runs is None:
        return DEFAULT_CONTENT
    ours = [run for run in runs if is_run(run.config)]
    return _content([run.config for run in ours], [key for run in ours for key in run.summary_metrics])


def _content(configs: Sequence[dict[str, Any]], logged: Sequence[str]) -> GroupContent:
    """The axes are those of compare.py: a choice that another determines is no axis."""
    runs = [ComparedRun(RunFolder(Path(str(i)), config, {}, {}), flat_config(config), {}) for i, config in enumerate(configs)]
    targets = {key for run in runs for key, value in run.flat.items() if isinstance(value, Target)}
    axes = [f"{key}._target_" if key in targets else key for key in (grouped(runs, {}).free if runs else [])]
    validated = _judged(logged, "val/")
    finals = _judged(logged, "final/") or validated
    return GroupContent(axes, finals, validated) if finals else DEFAULT_CONTENT._replace(axes=axes)


def _judged(logged: Sequence[str], room: str) -> list[str]:
    """The bound first."""
    keys = dict.fromkeys(key.removeprefix(room) for key in logged if key.startswith(room))
    return sorted((key for key in keys if measure_of(key).judged), key=lambda key: key != "bound_bpd")


def workspace(group: Group, title: str, content: GroupContent) -> ws.Workspace:
    """The view, not saved. Raises UserError for a group whose name the package cannot put into a filter."""
    if unwritable := re.search(UNWRITABLE, group.name):
        raise UserError(f"group={group.name}: wandb-workspaces cannot filter by a name with {unwritable[0]}; rename the group")
    # a nested configuration has its `value` behind the first part of the key
    axes = [f"config:{first}.value{dot}{rest}" for first, dot, rest in (axis.partition(".") for axis in content.axes)]
    results = [f"summary:final/{key}" for key in content.measures]
    return ws.Workspace(
        entity=group.entity or "",
        project=group.project,
        name=title,
        sections=_sections(content),
        settings=ws.WorkspaceSettings(max_runs=RUNS),
        runset_settings=ws.RunsetSettings(
            filters=ws.And(ws.Metric("Group") == group.name),
            groupby=[ws.Config(axis) for axis in content.axes],
            order=[ws.Ordering(ws.Summary(f"final/{content.measures[0]}"), ascending=True)],
            pinned_columns=["run:displayName", "config:seed.value", *axes, *results],
        ),
    )


def _sections(content: GroupContent) -> list[ws.Section]:
    first, *others = content.measures
    columns = [wr.Config(axis) for axis in content.axes] + [wr.SummaryMetric(f"final/{key}") for key in content.measures]
    plotted = [wr.ParallelCoordinatesPlotColumn(metric=column) for column in columns]
    better = [*map(_bars, content.measures), *(_against(first, other) for other in others)]
    validation = [_line(f"{measure_of(key).label} in validation", (f"val/{key}",)) for key in content.validated]
    samples = [wr.MediaBrowser(title=key, media_keys=[key], grid_x_axis="step", grid_y_axis="run") for key in MEDIA]
    tables = [wr.WeavePanelSummaryTable(table_name=key) for key in TABLES]
    panels: dict[str, list[Any]] = {
        "Which is better": [*better, wr.ParallelCoordinatesPlot(title="choices and results", columns=plotted)],
        "Validation": [*validation, _line("parts of the bound in validation", BOUND_CURVES)],
        "Samples: a row per run, a column per step": samples,
        "Training": [_line(title, keys) for title, keys in TRAINING_CURVES.items()],
        "Tables and differences": [*tables, wr.RunComparer(diff_only="split")],
    }
    sections = [ws.Section(name=name, panels=content, is_open=i < 3) for i, (name, content) in enumerate(panels.items())]
    sections[0].pinned = True
    return sections


def _line(title: str, keys: Sequence[str]) -> wr.LinePlot:
    """Of grouped runs the mean, in a band from the lowest to the highest seed."""
    return wr.LinePlot(title=title, x="Step", y=list(keys), **GROUPED)


def _bars(key: str) -> wr.BarPlot:
    measure = measure_of(key)
    title = f"{measure.label}, {'higher' if measure.better > 0 else 'lower'} is better; mean over seeds"
    return wr.BarPlot(title=title, metrics=[f"final/{key}"], max_bars_to_show=RUNS, **GROUPED)


def _against(x: str, y: str) -> wr.ScatterPlot:
    title = f"{measure_of(y).label} against {measure_of(x).label}"
    return wr.ScatterPlot(title=title, x=wr.SummaryMetric(f"final/{x}"), y=wr.SummaryMetric(f"final/{y}"))


def specification(view: ws.Workspace) -> dict[str, Any]:
    """What `save` would send, as plain data."""
    return json.loads(view._to_model().model_dump_json(by_alias=True, exclude_none=True))
