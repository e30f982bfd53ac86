"""Sweeps at Weights & Biases: ours (-m), where every arm is a run of one group, and those of `wandb agent`."""

import csv
import itertools
import json
from pathlib import Path

import pytest
from helpers import CONF, ROOT, TINY, arrays, command_anew, trained
from omegaconf import OmegaConf
from training.logging_support import no_account, offline  # noqa: F401
from training.support import quiet
from training.wandb_file import runs
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args
from wandb_server import end_service

from ddpm_lab.config.build import load
from ddpm_lab.config.preflight import preflight

pytestmark = [*quiet, pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")]  # wandb's, of the agent's parameters
WANDB = ["logger=wandb", "logger.mode=offline"]
SWEEP = OmegaConf.to_container(OmegaConf.load(ROOT / "docs" / "wandb_sweep.yaml"))


def agent(monkeypatch: pytest.MonkeyPatch, folder: Path, run_id: str, parameters: dict) -> None:
    """The environment in which wandb's agent starts a run: with a file of the parameters, as it writes them."""
    file = folder / f"config-{run_id}.yaml"
    file.write_text("wandb_version: 1\n" + "".join(f"{key}:\n  value: {value}\n" for key, value in parameters.items()))
    details = {
        "WANDB_SWEEP_ID": "sweep1",
        "WANDB_RUN_ID": run_id,
        "WANDB_SWEEP_PARAM_PATH": str(file),
        "WANDB_PROJECT": "of_sweep",
    }
    for name, value in details.items():
        monkeypatch.setenv(name, value)
    end_service()  # each run of an agent is a process of its own, which reads these anew


@pytest.fixture
def alone():
    """wandb reads its environment once a process."""
    yield
    end_service()


@pytest.fixture
def by_agent(alone, no_account, monkeypatch, tmp_path):  # noqa: F811
    def start(run_id: str, **parameters: object) -> None:
        agent(monkeypatch, tmp_path, run_id, parameters)

    return start


def test_a_run_of_wandb_agent_is_the_agents_and_keeps_what_it_chose(by_agent, tmp_path):
    by_agent("agents_id", schedule="cosine", seed=3, **{"optim.lr": 0.01})
    folder = trained(tmp_path / "run", *TINY, *WANDB, "schedule=cosine", "seed=3", "optim.lr=0.01")
    (result,) = runs(folder)
    assert (result.run.run_id, result.run.sweep_id, result.run.project) == ("agents_id", "sweep1", "of_sweep")
    assert (folder / "wandb" / "run_id").read_text() == "agents_id"
    assert result.run.display_name == "schedule=cosine seed=3 optim.lr=0.01"
    assert {key: result.config[key] for key in ("schedule", "seed", "optim.lr")} == {
        "schedule": "cosine",
        "seed": 3,
        "optim.lr": 0.01,
    }
    assert (result.config["optim"]["lr"], result.config["loss"]) == (0.01, load(folder).config["loss"])
    assert SWEEP["metric"]["name"] in result.summary
    assert len(result.values("train/loss")) == 2


def test_the_next_run_of_the_agent_in_a_folder_is_another(by_agent, tmp_path):
    """And so is one that no agent started, but it goes on with the id that is there."""
    for run_id in ("first", "second"):
        by_agent(run_id, seed=1)
        logger = offline(tmp_path, name="typed")
        logger.log_metrics({"a": 1.0}, 1)
        logger.close(0)
    assert [result.run.run_id for result in runs(tmp_path)] == ["first", "second"]
    assert {result.run.display_name for result in runs(tmp_path)} == {"typed"}
    assert (tmp_path / "wandb" / "run_id").read_text() == "second"


def test_an_id_in_the_environment_alone_is_not_taken(alone, tmp_path, monkeypatch):
    """Two arms would be one run."""
    monkeypatch.setenv("WANDB_RUN_ID", "exported")
    end_service()
    for name in ("sweep1/0", "sweep2/0"):
        logger = offline(tmp_path / name)
        logger.log_metrics({"a": 1.0}, 1)
        logger.close(0)
    ids = {runs(tmp_path / name)[0].run.run_id for name in ("sweep1/0", "sweep2/0")}
    assert len(ids) == 2
    assert "exported" not in ids


@pytest.mark.parametrize("values", [*itertools.product(*(p["values"] for p in SWEEP["parameters"].values()))], ids=str)
def test_what_the_agent_would_type_for_the_sweep_of_the_docs_passes(values):
    parameters = dict(zip(SWEEP["parameters"], values, strict=True))
    words = create_sweep_command_args({"args": {key: {"value": value} for key, value in parameters.items()}})
    typed = [
        words.get(word[2:-1], [word]) if word.startswith("${") else [word] for word in create_sweep_command(SWEEP["command"])
    ]
    env, interpreter, program, *arguments = itertools.chain(*typed)
    assert (env, interpreter, program) == ("${env}", "${interpreter}", "${program}")
    assert (ROOT / SWEEP["program"]).exists()
    (arm,) = preflight(arguments)
    assert {"schedule": arm.choices["schedule"], "loss": arm.choices["loss"], "seed": arm.config.seed} == parameters
    assert arm.choices["logger"] == "wandb"
    assert parameters.keys() <= {path.name for path in CONF.iterdir()} | {"seed"}


def rows(run: Path) -> dict[str, dict[int, float]]:
    """The curves of metrics.csv."""
    with (run / "metrics.csv").open() as file:
        table = list(csv.DictReader(file))
    return {key: {int(r["step"]): float(r[key]) for r in table if r[key]} for key in table[0] if key != "step"}


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_the_arms_of_an_offline_sweep_are_runs_of_one_group(tmp_path):
    """As any user starts it; and one that is resumed goes on with its run."""
    done = command_anew("-m", *TINY, *WANDB, "logger.artifact=weights", "seed=3,4", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (sweep,) = (tmp_path / "outputs" / "multirun").iterdir()
    sent = {}
    for arm, seed in enumerate((3, 4)):
        run = sweep / str(arm)
        (result,) = runs(run)
        sent[result.run.run_id] = result
        assert (result.run.run_group, result.run.display_name, result.config["seed"]) == (sweep.name, f"seed={seed}", seed)
        assert result.exit_code == 0
        for key, curve in rows(run).items():
            assert result.values(key) == pytest.approx(curve, rel=1e-12)
        for key, file in {
            "samples/grid": "samples/step_0000002.png",
            "samples/progression": "samples/progression_0000002.png",
        }.items():
            assert (result.files / result.values(key)[2]["path"]).read_bytes() == (run / file).read_bytes()
        metrics = json.loads((run / "summary.json").read_text())["metrics"]
        table = result.table("final/results", 2)["data"]
        assert {key: value for _, value, _, key in table} == {key: metric["value"] for key, metric in metrics.items()}
        terms = arrays(run / "vlb_terms.npz")["terms_bpd"]
        assert [row[1] for row in result.table("final/vlb_terms", 2)["data"]] == terms.tolist()
        assert result.summary[SWEEP["metric"]["name"]] == metrics["bound_bpd"]["value"]
        assert (result.files / str(arm) / "summary.json").read_bytes() == (run / "summary.json").read_bytes()
        assert result.models
    assert len(sent) == 2
    done = command_anew(f"resume={sweep / '0'}", "trainer.max_steps=4", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = runs(sweep / "0")
    assert (second.run.run_id, second.run.run_group) == (first.run.run_id, sweep.name)
    assert second.run.display_name == "seed=3"
    assert list(second.values("train/loss")) == [3, 4]
