"""Sweeps and flags: which runs a command line means, and what is refused with which words."""

import pytest
from refusals import refusal

from ddpm_lab.config.options import conf_dir, options
from ddpm_lab.config.preflight import preflight

# Of each the message begins with the argument, and holds the other words.
REFUSED = {
    "schedule=linear,cosine": ("schedule=linear,cosine ", "add -m"),
    "optim.betas=.5,.9": ("optim.betas=.5,.9 ", "add -m", "optim.betas=[.5,.9]"),
    "-m seed=interval(0,1)": ("seed=interval(0,1): ", "range(", "sweep=search"),
    "-m seed=shuffle(1,2)": ("seed=shuffle(1,2): ",),
    "-m seed=glob(*)": ("seed=glob(*): ", "options of a group"),
    "-m schedule=glob(x*)": ("schedule=glob(x*): ", "no value"),
    "-m seed=range(0,3,0)": ("seed=range(0,3,0): ", "list"),
    "-m seed=range(0,inf)": ("seed=range(0,inf): ", "1000"),
    "-m seed=range(0,100) split=1": ("split=1: ",),
    "-m seed=range(0,100) schedule.T=range(1,100)": ("", "1000 runs"),
    "-m schedule=linear,cosin": ("schedule=cosin: ", "schedule=cosine?"),
    "-m run.name=a": ("run.name=a: ", "-m", "run.root"),
    "-m trainer.num_nodes=2": ("trainer.num_nodes=2: ", "-m", "one machine"),
    "sweep.n_jobs=2": ("sweep.n_jobs=2: ", "add -m"),
    "-m sweep=variance,none": ("sweep=variance,none: ", "one value"),
    "launcher=slurm": ("launcher=slurm: ", "add -m"),
    "launcher.minutes=5": ("launcher.minutes=5: ", "add -m"),
    "-m launcher=local,slurm": ("launcher=local,slurm: ", "one value"),
    "-m launcher.minutes=5": ("launcher.minutes=5: ", "launcher=local", "launcher.minutes belongs to launcher=slurm"),
    "-m sweep=varianc": ("sweep=varianc: ", "sweep=variance?"),
    "-m sweep.n_jobs=0": ("sweep.n_jobs=0: ", "int >= 1"),
    "-m sweep.name=a/b": ("sweep.name=a/b: ", "folder name"),
    "-m sweep.arms=5": ("sweep.arms=5: ", "list of str"),
    "-m sweep.arms=['schedul=linear']": ("schedul=linear: ", "schedule=linear?"),
    "-m hydra/launcher=joblib seed=1,2": ("hydra/launcher=joblib: ", "--help launcher"),
    "-m experiment=smoke,digits_sweep": ("experiment: ", "sweep itself"),
    "experiment=digits_sweep": ("", "schedule=linear,cosine loss=simple,hybrid seed=0,1", "add -m"),
    "hydra.verbose=true": ("hydra.verbose=true: ", "--cfg hydra"),
    "hydra.run.dir=x": ("hydra.run.dir=x: ", "run.name=", "run.root="),
    "hydra.sweep={dir:x}": ("hydra.sweep={dir:x}: ", "run.root="),
    "hydra/job_logging=default": ("hydra/job_logging=default: ", "run.root="),
    "hydra.mode=MULTIRUN": ("hydra.mode=MULTIRUN: ", "add -m"),
    "-m hydra.verbose=true,false": ("hydra.verbose=true,false: ", "--cfg hydra"),
    "--foo": ("--foo: ", "--help"),
    "--multi": ("--multi: ", "--help"),
    "seed=1 -m seed=2": ("seed=2: ", "side by side"),
    "--config-name=x": ("--config-path and --config-name: ", "--config-dir=FOLDER"),
    "--run -m": ("", "--run", "--multirun (-m)", "--cfg", "--info"),
    "--resolve": ("--resolve ", "--cfg job"),
    "--info nothing": ("", "--info", "nothing", "defaults-tree"),
    "--config-dir": ("", "--config-dir", "--help"),
    "--cfg job shedule=x": ("shedule=x: ",),
}


@pytest.mark.parametrize("argv", REFUSED)
def test_sweeps_and_flags(argv):
    message, (start, *names) = refusal(*argv.split()), REFUSED[argv]
    assert message.startswith(start)
    assert [name for name in names if name not in message] == [], message
    assert "\n" not in message


def test_every_bad_run_of_a_sweep_is_listed_before_the_first_starts():
    message = refusal("-m", "schedule=linear,cosine", "loss=simple,hybrid", "variance=learned_range")
    head, problem, *runs = message.splitlines()
    assert head == "2 of the 4 runs of this sweep cannot work, so none was started:"
    assert "loss=simple" in problem
    assert "variance=learned_range" in problem
    assert runs == [f"  schedule={s} loss=simple variance=learned_range" for s in ("linear", "cosine")]


def test_a_problem_of_every_run_is_said_once():
    told = "schedule.T=0: allowed is int in [1, 1000000] (number of diffusion steps)"
    assert refusal("-m", "seed=1,2,3", "schedule.T=0") == told


def test_a_sweep_unfolds_as_in_hydra():
    arms = preflight(["-m", "schedule=glob(*ine*)", "seed=range(1,3)", "loss=choice(vlb)"])
    assert [arm.overrides for arm in arms] == [
        [f"schedule={schedule}", f"seed={seed}", "loss=vlb"]
        for schedule in ("cosine", "linear", "shifted_cosine")
        for seed in (1, 2)
    ]
    assert [(arm.choices["schedule"], arm.config.seed) for arm in arms[:3]] == [("cosine", 1), ("cosine", 2), ("linear", 1)]
    assert arms[0].config is not arms[1].config


def test_a_ready_sweep_is_its_lines_and_what_is_typed_wins():
    arms = preflight(["-m", "sweep=ddpm_table2"])
    told = [" ".join(arm.overrides) for arm in arms]
    assert len(set(told)) == len(arms) == 6
    assert told[0] == "sampler=ancestral sampler.steps=null prediction=mu loss=vlb variance=learned_diagonal"
    (eps, mu) = preflight(["-m", "sweep=ddpm_table2", "loss=simple", "variance=beta", "prediction=eps,mu", "seed=3"])
    assert (eps.config.seed, mu.overrides) == (
        3,
        [*told[0].split()[:2], "loss=simple", "variance=beta", "prediction=mu", "seed=3"],
    )
    assert len(preflight(["-m", "experiment=digits_sweep"])) == 8
    assert len(preflight(["-m", "experiment=digits_sweep", "sweep=none", "seed=1,2"])) == 2
    one = preflight(["-m", "sweep.arms=['loss=simple variance=beta,beta_tilde','loss=hybrid']"])
    assert [" ".join(arm.overrides) for arm in one] == [
        "loss=simple variance=beta",
        "loss=simple variance=beta_tilde",
        "loss=hybrid",
    ]


SWEEPS = [name for name in options("sweep", [conf_dir()]) if name not in ("none", "search")]
SIZES = ("digits", "ddpm_cifar10", "iddpm_cifar10")


@pytest.mark.parametrize(
    ("sweep", "size"),
    [
        pytest.param(sweep, size, marks=() if size == "digits" else pytest.mark.soak)
        for sweep in SWEEPS
        for size in SIZES
        if sweep != "chapter" or size == "digits"  # its data have levels
    ],
)
def test_every_ready_sweep_works_on_digits_and_at_the_size_of_cifar10(sweep, size):
    assert len(preflight(["-m", f"sweep={sweep}", f"experiment={size}"])) > 1
