"""What the user sees for each kind of mistake; options and experiments of a user's own."""

import pytest
from refusals import refusal, refuses

from ddpm_lab.config.grammar import canonical
from ddpm_lab.config.options import conf_dir, options
from ddpm_lab.config.preflight import preflight

SCHEDULES = ", ".join(options("schedule", [conf_dir()]))


NAMES = {
    "schedule=cosin": ("schedule=cosin: ", "schedule=cosine?", SCHEDULES),
    "loss=vbl": ("loss=vbl: ", "loss=vlb?", "constant_weight, edm, hybrid, "),
    "schedule=": ("schedule=: ", SCHEDULES),
    "shedule=cosine": ("shedule=cosine: ", "schedule=cosine?", "data, model, schedule, "),
    "shedule=cosin": ("shedule=cosin: ", "schedule=cosine?"),
    "schedul.T=5": ("schedul.T=5: ", "schedule.T=5?"),
    "lr=1": ("lr=1: ", "optim.lr=1?"),
    "run.nam=x": ("run.nam=x: ", "run.name=x"),
    "+learnin_rate=1": ("+learnin_rate=1: ", "optim.lr=1 (learning rate"),
    "++learning_rate=1": ("++learning_rate=1: ", "optim.lr=1"),
    "zzz=1": ("zzz=1: ", "data, model, schedule, "),
    "=3": ("=3: ", "data, model, schedule, "),
    "+optim.lr=1": ("+optim.lr=1: ", "leave out the +"),
    "+optim.scheduler=x": ("+optim.scheduler=x: ", "optim=adam", "betas, clip, decay, decay_final, decay_start, eps"),
    "+schedule=cosine": ("+schedule=cosine: ", "leave out the +"),
    "++schedule=cosine": ("++schedule=cosine: ", "leave out the +"),
    "~seed": ("~seed: ", "seed=..."),
    "~schedule": ("~schedule: ", "schedule=..."),
    "~optim.clip": ("~optim.clip: ", "optim.clip=..."),
    "experiment=null": ("experiment=null: ", "~experiment"),
    "schedule=null": ("schedule=null: ", SCHEDULES),
    "schedule=[linear]": ("schedule=[linear]: ", "one option"),
    "schedule@a=linear": ("schedule@a=linear: ", "schedule=linear"),
    "schedule._target_=os.system": ("schedule._target_=os.system: ", "schedule=..."),
    "data.batchsize=4": ("data.batchsize=4: ", "data=digits", "batch_size, "),
    "timesteps.x=1": ("timesteps.x=1: ", "timesteps=uniform", "none"),
    "callbacks.frechet=5": ("callbacks.frechet=5: ", "callbacks.frechet.n, callbacks.frechet.seed"),
    "callbacks.frechet=null callbacks.frechet.n=5": ("callbacks.frechet.n=5: ", "callbacks.frechet is left out"),
    "schedule.T.x=1": ("schedule.T.x=1: ", "schedule=cosine"),
    "seed=1 seed=2": ("seed=2: ", "seed=1"),
    "experiment=smoke net=mlp": ("experiment=smoke sets net.channels: ", "net=mlp", "belongs to net=unet"),
    "trainer.max_step=5": ("trainer.max_step=5: ", "trainer.max_steps?"),
}


@pytest.mark.parametrize("line", NAMES)
def test_names(line):
    refuses(line, *NAMES[line])


@pytest.mark.parametrize(
    ("line", "there", "never"),
    [
        ("eta=0.5 sampler=ancestral", "sampler.eta belongs to sampler=ddim, sampler=ddim_eta1", "Did you mean"),
        ("sampler=ancestral sampler.eta=.5", "sampler.eta belongs to sampler=ddim, sampler=ddim_eta1", "Did you mean"),
        ("epochs=10", "metrics.epochs belongs to metrics=classifier", "Did you mean"),
        ("steps=10", "sampler.steps=10?", "belongs"),
        ("model=unet", "net=unet", "belongs"),
        ("schedule=unet", "net=unet?", "belongs"),
        ("net=cosin", "Options: mlp", "schedule"),
    ],
)
def test_only_keys_of_chosen_options_are_suggested(line, there, never):
    message = refusal(*line.split())
    assert there in message
    assert never not in message


VALUES = {
    "schedule.T=-1": ("int in [1, 1000000]", "number of diffusion steps"),
    "schedule.T=ten": ("int in [1, 1000000]",),
    "schedule.T=1e3": ("int in [1, 1000000]", "write schedule.T=1000"),
    "schedule.T=null": ("int in [1, 1000000]",),
    "schedule.T={a:1}": ("int in [1, 1000000]",),
    "optim.lr=abc": ("float", "learning rate after warm-up"),
    "optim.lr=nan": ("float",),
    "optim.lr='0.1'": ("float",),
    "optim.decay=cosin": ("none, cosine, linear, inverse_sqrt", "optim.decay=cosine?"),
    "optim.decay_final=1.5": ("float in [0, 1) or null",),
    "optim.decay_final=-0.1": ("float in [0, 1) or null",),
    "net.attention=4": ("list of int", "net.attention=[4]"),
    "sampler.spacing=leadin": ("trailing, leading, linspace, quadratic", "sampler.spacing=leading?"),
    "resume={a:1}": ("str", "null"),
    "resume=3": ("str", "resume=\"'3'\""),
    "run.name=a/b": ("folder name", "null"),
    "run.name=..": ("folder name",),
    "run.experiment=../x": ("folder name",),
    "run.experiment=/x": ("folder name",),
    "run.name=3": ("folder name", "run.name=\"'3'\""),
    "run.root=": ("str",),
    "run.name=" + "x" * 300: ("folder name",),
}


@pytest.mark.parametrize("argument", VALUES, ids=lambda argument: argument[:30])
def test_values(argument):
    refuses(argument, f"{argument}: allowed is ", *VALUES[argument])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("optim.decay=cosine optim.warmup=1900", ("optim.warmup=1900: ", "decay=cosine", "trainer.max_steps=1900")),
        ("optim=adamw optim.decay=linear trainer.max_steps=90", ("optim.warmup=100: ", "trainer.max_steps=90")),
        ("optim.decay=linear optim.decay_start=9", ("optim.decay_start=9: ", "warmup=100")),
        ("optim.decay_final=0.1", ("optim.decay_final=0.1: ", "decay=none")),
        ("optim=muon optim.decay=inverse_sqrt optim.warmup=0", ("optim.decay_start=null: ", "decay=inverse_sqrt")),
        ("optim=muon model=vae", ("optim=muon model=vae: ", "VAE", "`ends`", "use optim=adam or optim=adamw")),
        ("optim=muon model=rbm data.levels=2", ("optim=muon model=rbm: ", "RBM", "use optim=adam or optim=adamw")),
    ],
)
def test_optimisers_that_do_not_fit_the_run(arguments, said):
    refuses(arguments, *said)


@pytest.mark.parametrize("argument", ["seed=${seed}", "seed=${nothing}"])
def test_references_that_lead_nowhere(argument):
    refuses(argument, "seed: ")


def test_a_file_must_be_named_and_exist(tmp_path):
    refuses("data=npz", "data.path is needed: file that exists", "data.path=...")
    refuses("data=npz data.path=/nowhere", "data.path=/nowhere: allowed is file that exists")
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
            "predicton",
            "predicton: not readable as key=value. Did you mean prediction=edm or prediction=eps or prediction=mu or "
            "prediction=v or prediction=x0? See also --help",
        ),
    ],
)
def test_what_cannot_be_read_takes_one_line(argument, message):
    assert refusal(argument) == message


def own(tmp_path, **files: str) -> str:
    for name, text in files.items():
        path = tmp_path / f"{name.replace('__', '/')}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return f"--config-dir={tmp_path}"


def test_a_folder_of_ones_own(tmp_path):
    flag = own(
        tmp_path,
        schedule__mine="_target_: ddpm_lab.core.schedule.cosine\nT: 5\noffset: 0.1\n",
        net__wide="defaults: [unet_small, _self_]\nchannels: 64\n",
        experiment__table__row1="# @package _global_\ndefaults:\n  - override /schedule: mine\nseed: 4\n",
    )
    (arm,) = preflight([flag, "experiment=table/row1", "schedule.offset=0.2", "net=wide"])
    assert (arm.config.seed, arm.config.schedule.offset, arm.config.net.channels) == (4, 0.2, 64)
    assert arm.choices["experiment"] == "table/row1"
    refuses(f"{flag} net=wide net.channels=-1", "net.channels=-1: allowed is int >= 2", "feature maps")
    assert refusal(flag, "schedule=min").startswith("schedule=min: no such option. Did you mean schedule=mine?")
    assert refusal(flag, "experiment=row1").endswith("smoke, table/row1")


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("optm:\n  lr: 1\n", "experiment=e sets optm.lr: no such key. Did you mean optim.lr=...?"),
        ("sampler:\n  eta: 1\n", "experiment=e sets sampler.eta: sampler=ancestral has no such key; "),
        (
            "sampler: null\n",
            "experiment=e sets sampler: a file chooses an option in its defaults list: - override /sampler: OPTION",
        ),
        ("optim:\n  lr: fast\n", "optim.lr=fast: allowed is float"),
        ("optim: {lr: ", ""),
        (
            "defaults:\n  - override /schedule: nope\n",
            f"chosen in a file: schedule=nope: no such option. Options: {SCHEDULES}",
        ),
        ("- 1\n", ""),
        ("1: 2\n", ""),
    ],
)
def test_mistakes_in_ones_own_experiment(tmp_path, text, start):
    message = refusal(own(tmp_path, experiment__e=f"# @package _global_\n{text}"), "experiment=e")
    assert message.startswith(start)
    assert "\n" not in message


def test_a_callback_or_all_of_them_can_be_left_out():
    for words in (["~callbacks.frechet"], ["callbacks.frechet=null"], ["experiment=smoke", "~callbacks.frechet"]):
        (arm,) = preflight(words)
        assert arm.config.callbacks.frechet is None
        assert arm.config.callbacks.samples is not None
    for words in (["callbacks=none"], ["callbacks=none", "experiment=smoke"]):  # which sets values of some
        (arm,) = preflight(words)
        assert set(arm.config.callbacks.values()) == {None}


def test_other_data_than_those_of_the_default_experiment_are_trained_without_it(tmp_path):
    words, notes = canonical(["data=cifar10", "net=unet"], [conf_dir()])
    (arm,) = preflight(words)
    assert (arm.choices["experiment"], arm.config.optim.lr, arm.config.trainer.max_steps) == ("none", 0.0002, 100000)
    assert "data=cifar10" in notes[0]
    assert "experiment=none" in notes[0]
    for kept in (["data=digits"], ["data=cifar10", "experiment=digits"], ["data=cifar10", "~experiment"], ["data=mnis"],
                 ["data=cifar10", "resume=RUN"]):  # fmt: skip
        assert canonical(kept, [conf_dir()]) == (kept, [])
    assert canonical(["-m", "data=digits,mnist"], [conf_dir()])[0][-1] == "experiment=none"


def test_a_flag_of_hydra_with_the_name_of_a_group_stays_as_it_is():
    words = ["--cfg", "job", "-p", "optim"]
    assert canonical(words, [conf_dir()])[0] == words
    assert preflight(words) == []


def test_what_was_typed_is_known():
    (arm,) = preflight(["schedule=cosine", "++seed=3", "~callbacks.frechet"])
    assert arm.typed == {"schedule": "cosine", "seed": "3", "callbacks.frechet": ""}


def test_a_key_of_the_resumed_runs_own_options_is_not_judged_by_those_of_the_command_line():
    for typed in ("model.gibbs=3", "net.unheard=1"):
        refuses(f"resume=RUN {typed}", typed, "resume")
        refuses(f"{typed} resume=RUN", typed, "resume")
        assert "resume" not in refusal(typed)
    assert "sampler=ancestral" in refusal("resume=RUN", "sampler.gibbs=3")  # may change, by the options that there are
