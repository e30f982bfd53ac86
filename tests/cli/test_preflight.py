"""What the user sees for each kind of mistake, and which runs a command line means."""

import pytest

from ddpm_lab.config.options import conf_dir, options
from ddpm_lab.config.preflight import preflight
from ddpm_lab.errors import UserError

SCHEDULES = ", ".join(options("schedule", [conf_dir()]))


def refusal(*argv: str) -> str:
    with pytest.raises(UserError) as error:
        preflight(argv)
    return str(error.value)


@pytest.mark.parametrize(
    ("argv", "start"),
    [
        ("schedule=cosin", f"schedule=cosin: no such option. Did you mean schedule=cosine? Options: {SCHEDULES}"),
        ("loss=vbl", "loss=vbl: no such option. Did you mean loss=vlb? Options: constant_weight, hybrid, "),
        ("schedule=", "schedule=: no such option. Options: "),
        ("shedule=cosine", "shedule=cosine: no such key. Did you mean schedule=cosine? Groups and keys: data, schedule, "),
        ("shedule=cosin", "shedule=cosin: no such key. Did you mean schedule=cosine? "),
        ("schedul.T=5", "schedul.T=5: no such key. Did you mean schedule.T=5? "),
        ("lr=1", "lr=1: no such key. Did you mean optim.lr=1? "),
        ("run.nam=x", "run.nam=x: no such key. Did you mean run.name=x"),
        ("+learnin_rate=1", "+learnin_rate=1: no such key. Did you mean optim.lr=1 (learning rate after warm-up)? "),
        ("++learning_rate=1", "++learning_rate=1: no such key. Did you mean optim.lr=1 "),
        ("zzz=1", "zzz=1: no such key. Groups and keys: "),
        ("=3", "=3: no such key. Groups and keys: "),
        ("+optim.lr=1", "+optim.lr=1: leave out the +"),
        ("+schedule=cosine", "+schedule=cosine: leave out the +"),
        ("++schedule=cosine", "++schedule=cosine: leave out the +"),
        ("~seed", "~seed: nothing can be taken away"),
        ("~schedule", "~schedule: nothing can be taken away"),
        ("experiment=null", "experiment=null: to run without an experiment type '~experiment'"),
        ("schedule=null", f"schedule=null: a choice is needed. Options: {SCHEDULES}"),
        ("schedule=[linear]", "schedule=[linear]: one option at a time"),
        ("schedule@a=linear", "schedule@a=linear: an option stays in its own group; write schedule=linear"),
        ("schedule._target_=os.system", "schedule._target_=os.system: a class is chosen by its option, schedule=..."),
        ("data.batchsize=4", "data.batchsize=4: data=digits has no such key; it has batch_size, "),
        (
            "sampler=ancestral sampler.eta=.5",
            "sampler.eta=.5: sampler=ancestral has no such key; it has clip, spacing, steps. sampler=ddim and "
            "sampler=ddim_eta1 have it",
        ),
        ("timesteps.x=1", "timesteps.x=1: timesteps=uniform has no such key; it has none."),
        ("callbacks.frechet=null", "callbacks.frechet=null: callbacks.frechet is no single value; set one of callbacks."),
        ("schedule.T.x=1", "schedule.T.x=1: schedule=cosine has no such key; "),
        ("seed=1 seed=2", "seed=2: seed is already set by seed=1"),
        ("experiment=smoke net=mlp", "experiment=smoke sets net.channels: net=mlp has no such key; "),
    ],
)
def test_names(argv, start):
    assert refusal(*argv.split()).startswith(start)


@pytest.mark.parametrize(
    ("argument", "start"),
    [
        ("schedule.T=-1", "schedule.T=-1: allowed is int >= 1 (number of diffusion steps)"),
        ("schedule.T=ten", "schedule.T=ten: allowed is int >= 1"),
        ("schedule.T=1e3", "schedule.T=1e3: allowed is int >= 1 (number of diffusion steps); write schedule.T=1000"),
        ("schedule.T=null", "schedule.T=null: allowed is int >= 1"),
        ("schedule.T={a:1}", "schedule.T={a:1}: allowed is int >= 1"),
        ("optim.lr=abc", "optim.lr=abc: allowed is float > 0 (learning rate after warm-up)"),
        ("optim.lr=nan", "optim.lr=nan: allowed is float > 0"),
        ("optim.lr='0.1'", "optim.lr='0.1': allowed is float > 0"),
        ("optim.betas=[.9,2]", "optim.betas=[.9,2]: allowed is list of float in [0, 1)"),
        ("sampler.spacing=leadin", "sampler.spacing=leadin: allowed is one of trailing, leading, linspace, quadratic ("),
        ("resume={a:1}", "resume={a:1}: allowed is str or null"),
        ("seed=${seed}", "seed: "),
        ("seed=${nothing}", "seed: "),
        ("run.name=a/b", "run.name=a/b: allowed is a folder name"),
        ("run.name=..", "run.name=..: allowed is a folder name"),
        ("run.name=" + "x" * 300, "run.name=xxx"),
        ("run.experiment=../x", "run.experiment=../x: allowed is a folder name"),
        ("run.experiment=/x", "run.experiment=/x: allowed is a folder name"),
        ("run.name=3", "run.name=3: allowed is str or null"),
        ("run.root=", "run.root=: allowed is str"),
    ],
)
def test_values(argument, start):
    assert refusal(argument).startswith(start)


def test_a_file_must_be_named_and_exist(tmp_path):
    assert refusal("data=npz").startswith("data.path is needed: file: .npz or .npy")
    message = refusal("data=npz", "data.path=/nowhere")
    assert message.startswith("data.path=/nowhere: allowed is file (")
    assert message.endswith("; there is no such file")
    (tmp_path / "x.npz").touch()
    preflight(["data=npz", f"data.path={tmp_path}/x.npz"])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("lr=[1", "lr=[1: not readable as key=value: a bracket is not closed"),
        ("run.name='a", "run.name='a: not readable as key=value: a quotation mark is not closed"),
        ("resume=a=b", "resume=a=b: not readable as key=value. Text with special characters needs quotes: resume=\"'a=b'\""),
        ("é=1", "é=1: not readable as key=value"),
        ("cosine", "cosine: not readable as key=value. Did you mean schedule=cosine? See also --help"),
        ("lr", "lr: not readable as key=value. Did you mean optim.lr=...? See also --help"),
        ("seed", "seed: not readable as key=value. Did you mean seed=...? See also --help"),
        (
            "samplr",
            "samplr: not readable as key=value. Did you mean sampler=ancestral or sampler=ddim or "
            "sampler=ddim_eta1? See also --help",
        ),
    ],
)
def test_what_cannot_be_read_takes_one_line(argument, message):
    assert refusal(argument) == message


@pytest.mark.parametrize(
    ("argv", "start"),
    [
        ("variance=learned_range loss=simple", "loss=simple leaves the output of variance=learned_range untrained: use "),
        ("variance=beta loss=hybrid", "loss=hybrid trains the variance with its second term, and variance=beta"),
        ("net=mlp", "net=mlp takes vectors, and data=digits gives images: use net=unet or net=unet_small"),
        ("experiment=gaussian_mixture sampler.clip=true", "sampler.clip=true "),
        (
            "data=cifar10",
            "data=cifar10 gives images of 32×32, and net.attention=[4] asks for a size they do not pass through: choose from "
            "[32, 16], e.g. net.attention=[16]",
        ),
        (
            "data=mnist data.pad=30 net=unet",
            "data=mnist gives images of 30×30, and net.multipliers=[1, 2, 2, 2] halves them 3 times: use fewer multipliers, "
            "or a multiple of 8 as data.pad",
        ),
        ("data=celeba data.size=60 net=unet", "data=celeba gives images of 60×60, and net.multipliers=[1, 2, 2, 2] halves"),
        ("sampler.steps=2000", "sampler.steps=2000 is more than schedule.T=1000"),
    ],
)
def test_combinations(argv, start):
    assert refusal(*argv.split()).startswith(start)


@pytest.mark.parametrize(
    ("argv", "start"),
    [
        ("schedule=linear,cosine", "schedule=linear,cosine lists several values: add -m to run one after another"),
        (
            "optim.betas=.5,.9",
            "optim.betas=.5,.9 lists several values: add -m to run one after another, or write optim.betas=[.5,.9]",
        ),
        ("-m seed=interval(0,1)", "seed=interval(0,1): an interval"),
        ("-m seed=shuffle(1,2)", "seed=shuffle(1,2): leave out shuffle"),
        ("-m seed=glob(*)", "seed=glob(*): glob chooses among the options of a group"),
        ("-m schedule=glob(x*)", "schedule=glob(x*): no value"),
        ("-m seed=range(0,3,0)", "seed=range(0,3,0): not readable as a list of values"),
        ("-m seed=range(0,inf)", "seed=range(0,inf): more than 1000 values"),
        ("-m seed=range(0,100) split=1", "split=1: no such key."),
        ("-m seed=range(0,100) schedule.T=range(1,100)", "this sweep has more than 1000 runs"),
        ("-m schedule=linear,cosin", "schedule=cosin: no such option."),
        ("-m run.name=a", "run.name=a: the runs of a sweep (-m) would share this folder"),
        ("-m trainer.num_nodes=2", "trainer.num_nodes=2: a sweep (-m) stays on one machine"),
        ("sweep.n_jobs=2", "sweep.n_jobs=2: this is about a sweep: add -m"),
        ("-m sweep=variance,none", "sweep=variance,none: a sweep takes one value of this"),
        ("launcher=slurm", "launcher=slurm: this is about a sweep: add -m"),
        ("launcher.minutes=5", "launcher.minutes=5: this is about a sweep: add -m"),
        ("-m launcher=local,slurm", "launcher=local,slurm: a sweep takes one value of this"),
        ("-m launcher.minutes=5", "launcher.minutes=5: launcher=local has no such key; it has none. launcher=slurm has it"),
        ("-m sweep=varianc", "sweep=varianc: no such option. Did you mean sweep=variance?"),
        ("-m sweep.n_jobs=0", "sweep.n_jobs=0: allowed is int >= 1"),
        ("-m sweep.name=a/b", "sweep.name=a/b: allowed is a folder name"),
        ("-m sweep.arms=5", "sweep.arms=5: allowed is list of str or empty"),
        ("-m sweep.arms=['schedul=linear']", "schedul=linear: no such key. Did you mean schedule=linear?"),
        ("-m hydra/launcher=joblib seed=1,2", "hydra/launcher=joblib: a sweep starts its own processes"),
        ("-m experiment=smoke,digits_sweep", "experiment: one of these is a sweep itself"),
        ("experiment=digits_sweep", "this experiment is a sweep (schedule=linear,cosine loss=simple,hybrid seed=0,1): add -m"),
        ("trainer.devices=0", "trainer.devices=0: allowed is int >= 1 or null"),
        ("hydra.run.dir=x", "hydra.run.dir=x: runs and their logs go where run.name= or run.root= say"),
        ("hydra.sweep={dir:x}", "hydra.sweep={dir:x}: runs and their logs"),
        ("hydra/job_logging=default", "hydra/job_logging=default: runs and their logs"),
        ("hydra.mode=MULTIRUN", "hydra.mode=MULTIRUN: add -m"),
        ("-m hydra.verbose=true,false", "hydra.verbose=true,false: Hydra's own settings take one value"),
        ("--foo", "--foo: no such flag"),
        ("--multi", "--multi: no such flag"),
        ("seed=1 -m seed=2", "seed=2: write all key=value arguments side by side"),
        ("--config-name=x", "--config-path and --config-name: "),
        ("--run -m", "choose one of --run, "),
        ("--resolve", "--resolve belongs to --cfg"),
        ("--info nothing", "argument --info/-i: invalid choice"),
        ("--cfg job shedule=x", "shedule=x: no such key."),
    ],
)
def test_sweeps_and_flags(argv, start):
    assert refusal(*argv.split()).startswith(start)


def test_every_bad_run_of_a_sweep_is_listed_before_the_first_starts():
    message = refusal("-m", "schedule=linear,cosine", "loss=simple,hybrid", "variance=learned_range")
    head, problem, *runs = message.splitlines()
    assert head == "2 of the 4 runs of this sweep cannot work, so none was started:"
    assert problem.startswith("loss=simple leaves the output of variance=learned_range untrained")
    assert runs == [f"  schedule={s} loss=simple variance=learned_range" for s in ("linear", "cosine")]


def test_a_problem_of_every_run_is_said_once():
    assert refusal("-m", "seed=1,2,3", "schedule.T=0") == "schedule.T=0: allowed is int >= 1 (number of diffusion steps)"


def test_one_run():
    (arm,) = preflight(["schedule=cosine", "schedule.T=177", "++seed=3", "hydra.verbose=false"])
    assert arm.overrides == ["schedule=cosine", "schedule.T=177", "++seed=3"]
    assert (arm.config.schedule.T, arm.config.seed, arm.choices["schedule"]) == (177, 3, "cosine")
    assert "hydra" not in arm.config


@pytest.mark.parametrize(("loss", "variance"), [("simple", "Beta"), ("vlb", "Beta"), ("hybrid", "LearnedRange")])
def test_auto_is_resolved(loss, variance):
    (arm,) = preflight([f"loss={loss}"])
    assert arm.config.variance._target_.endswith(f".{variance}")
    assert arm.choices["variance"] == "auto"


def test_a_sweep_unfolds_as_in_hydra():
    arms = preflight(["-m", "schedule=glob(*ine*)", "seed=range(1,3)", "loss=choice(vlb)"])
    assert [arm.overrides for arm in arms] == [
        [f"schedule={schedule}", f"seed={seed}", "loss=vlb"] for schedule in ("cosine", "linear") for seed in (1, 2)
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


@pytest.mark.parametrize("sweep", [name for name in options("sweep", [conf_dir()]) if name not in ("none", "search")])
@pytest.mark.parametrize("size", ["digits", "ddpm_cifar10", "iddpm_cifar10"])
def test_every_ready_sweep_works_on_digits_and_at_the_size_of_cifar10(sweep, size):
    assert len(preflight(["-m", f"sweep={sweep}", f"experiment={size}"])) > 1


def test_without_an_experiment():
    (arm,) = preflight(["~experiment"])
    assert arm.choices["experiment"] is None
    assert arm.choices["ema"] == "constant"  # experiment=digits chooses ramp


@pytest.mark.parametrize(
    "argv", [["--help"], ["--hydra-help"], ["--version"], ["-sc", "install=bash"], ["--cfg", "job"], ["--info"]]
)
def test_where_hydra_only_shows_something_there_is_no_run(argv):
    assert preflight(argv) == []


def own(tmp_path, **files: str) -> str:
    for name, text in files.items():
        path = tmp_path / f"{name.replace('__', '/')}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return f"--config-dir={tmp_path}"


def test_a_folder_of_ones_own(tmp_path):
    flag = own(
        tmp_path,
        schedule__mine="_target_: my.schedule\nT: 5\nslope: 2\n",  # no rules: not checked
        net__wide="defaults: [unet_small, _self_]\nchannels: 64\n",
        experiment__table__row1="# @package _global_\ndefaults:\n  - override /schedule: mine\nseed: 4\n",
    )
    (arm,) = preflight([flag, "experiment=table/row1", "schedule.slope=x", "net=wide"])
    assert (arm.config.seed, arm.config.schedule.slope, arm.config.net.channels) == (4, "x", 64)
    assert arm.choices["experiment"] == "table/row1"
    message = refusal(flag, "net=wide", "net.channels=-1")  # the rule comes with the option that wide builds upon
    assert message.startswith("net.channels=-1: allowed is int >= 2")
    assert refusal(flag, "schedule=min").startswith("schedule=min: no such option. Did you mean schedule=mine?")
    assert refusal(flag, "experiment=row1").endswith(
        "gaussian_mixture, iddpm_cifar10, iddpm_cifar10_vlb, none, smoke, table/row1"
    )


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("optm:\n  lr: 1\n", "experiment=e sets optm.lr: no such key. Did you mean optim.lr=...?"),
        ("sampler:\n  eta: 1\n", "experiment=e sets sampler.eta: sampler=ancestral has no such key; "),
        (
            "sampler: null\n",
            "experiment=e sets sampler: a file chooses an option in its defaults list: - override /sampler: OPTION",
        ),
        ("optim:\n  lr: fast\n", "optim.lr=fast: allowed is float > 0"),
        ("optim: {lr: ", ""),
        (
            "defaults:\n  - override /schedule: nope\n",
            f"chosen in a file: schedule=nope: no such option. Options: {SCHEDULES}",
        ),
        ("- 1\n", ""),
        ("1: 2\n", "experiment=e sets 1: no such key."),
    ],
)
def test_mistakes_in_ones_own_experiment(tmp_path, text, start):
    message = refusal(own(tmp_path, experiment__e=f"# @package _global_\n{text}"), "experiment=e")
    assert message.startswith(start)
    assert "\n" not in message
