"""The project's own options: which combinations are refused, with what to type instead, and names of other codebases."""

import pytest
from helpers import command

from ddpm_lab.config.grammar import canonical
from ddpm_lab.config.options import aliases, conf_dir, groups, options
from ddpm_lab.config.preflight import preflight
from ddpm_lab.errors import UserError

DIRS = [conf_dir()]
REFUSED = {
    "schedule=jsd": ("schedule=jsd", "prediction=eps", "prediction=mu or prediction=v or prediction=x0", "schedule=cosine"),
    "schedule=zero_terminal_snr": ("schedule=zero_terminal_snr", "prediction=eps", "or schedule=cosine"),
    "loss=min_snr prediction=mu": ("loss=min_snr", "prediction=mu", "prediction=eps or prediction=v or prediction=x0"),
    "loss=p2 prediction=mu": ("loss=p2", "prediction=mu", "loss=simple or loss=vlb"),
    "loss=truncated_snr": ("loss=truncated_snr", "prediction=eps", "prediction=v or prediction=x0", "loss=min_snr"),
    "loss=constant_weight prediction=mu": ("loss=constant_weight", "prediction=mu", "prediction=v or prediction=x0"),
    "loss=min_snr prediction=v schedule=jsd": ("loss=min_snr", "schedule=jsd", "loss=constant_weight"),
    "loss=p2 prediction=x0 schedule=zero_terminal_snr": ("loss=p2", "schedule=zero_terminal_snr", "loss=simple"),
    "loss=simple variance=learned_diagonal": ("loss=simple", "variance=learned_diagonal", "loss=hybrid or loss=vlb",
                                              "variance=beta or variance=beta_tilde or variance=interpolated"),
    "loss=min_snr variance=learned_range": ("loss=min_snr", "variance=learned_range", "loss=hybrid or loss=vlb"),
    "loss=hybrid variance=learned_diagonal": ("steps=100", "T=1000", "sampler.steps=null", "another variance"),
    "loss=hybrid variance=interpolated": ("loss=hybrid", "variance=learned_diagonal or variance=learned_range"),
    "schedule=jsd prediction=v sampler.spacing=leading sampler.steps=50": ("schedule=jsd", "spacing=leading"),
    "sampler.spacing=optimal sampler.steps=10": ("sampler=ancestral", "spacing=optimal", "steps=10", "trailing", "karras"),
    "sampler.steps=2000": ("steps=2000", "T=1000", "1 to 1000"),
    "experiment=gaussian_mixture sampler.clip=true": ("clip",),
    "metrics=classifier data=celeba net=unet": ("metrics=classifier", "data=celeba", "metrics=inception or metrics=pixels",
                                       "data=cifar10 or data=fashion_mnist or data=mnist"),
    "metrics=classifier experiment=gaussian_mixture": ("metrics=classifier", "data=gaussian_mixture", "metrics=pixels"),
    "net=mlp": ("net=mlp", "data=digits", "net=unet_small", "data=gaussian_mixture"),
    "experiment=gaussian_mixture net=unet": ("net=unet", "data=gaussian_mixture", "net=mlp"),
    "data=cifar10": ("net=unet_small", "data=cifar10", "attention=[4]", "[32, 16]", "net=unet"),
    "data=mnist data.pad=30 net=unet": ("multipliers=[1, 2, 2, 2]", "size=30", "multiple of 8"),
    "data=celeba data.size=60 net=unet": ("size=60", "multiple of 8"),
    "schedule=linear schedule.T=19 schedule.rescale=true": ("T=19", "T >= 20", "rescale=false"),
    "schedule=sigmoid_alpha_bar schedule.start=3": ("schedule", "start=3", "end=3"),
    "ema.also=[0.9,0.9]": ("ema", "also=[0.9, 0.9]"),
    "trainer.precision=64-true trainer.sample_precision=bf16-mixed": ("trainer", "sample_precision=32-true"),
    "variance=analytic": ("at evaluation only", "python evaluate.py ckpt=RUN variance=analytic"),
    "trainer=ddp_multinode": ("trainer.num_nodes=2", "torchrun or srun"),
    "trainer.devices=2 trainer.fast_dev_run=true": ("trainer.fast_dev_run=true", "trainer.devices=1"),
    "schedule=zero_terminal_snr prediction=v schedule.base=cosine": ("schedule.base=cosine", "linear, quadratic, sigmoid_beta"),
}  # fmt: skip


@pytest.mark.parametrize("arguments", REFUSED)
def test_what_cannot_work_is_refused(arguments):
    with pytest.raises(UserError) as refusal:
        preflight(arguments.split())
    message = str(refusal.value)
    assert [name for name in REFUSED[arguments] if name not in message] == [], message
    assert "\n" not in message


def test_one_bad_run_stops_a_sweep_before_its_first():
    with pytest.raises(UserError, match=r"1 of the 2 runs of this sweep cannot work") as refusal:
        preflight(["-m", "schedule=linear,jsd"])
    assert "schedule=jsd" in str(refusal.value)


@pytest.mark.parametrize("arguments", ["schedule=jsd prediction=x0", "schedule=zero_terminal_snr prediction=v loss=vlb",
                                       "loss=hybrid variance=learned_diagonal sampler.steps=null",
                                       "loss=hybrid variance=learned_diagonal sampler=ddim", "prediction=mu loss=vlb",
                                       "metrics=classifier data=mnist net.attention=[16]", "trainer.limit_train_batches=5",
                                       "+trainer.limit_val_batches=0.5", "experiment=debug",
                                       "data=npz data.path=README.md net=unet"])  # fmt: skip
def test_what_works_is_not_refused(arguments):
    assert len(preflight(arguments.split())) == 1


def test_no_name_stands_for_two_options():
    for group in groups(DIRS):
        names = [name for path in options(group, DIRS).values() for name in also_called(path)]
        assert len(names) == len(set(names)) == len(aliases(group, DIRS))
        assert not set(names) & options(group, DIRS).keys()


def also_called(path) -> list[str]:
    lines = [line for line in path.read_text().splitlines() if line.startswith("# also called: ")]
    return [name.strip() for line in lines for name in line.removeprefix("# also called: ").split(",")]


def test_names_of_other_codebases_become_ours():
    argv = ["-m", "schedule=scaled_linear,linear", "variance=fixedlarge", "prediction=eps", "schedule.T=7", "data=mine"]
    words, notes = canonical(argv, DIRS)
    assert words == ["-m", "schedule=quadratic,linear", "variance=beta", "prediction=eps", "schedule.T=7", "data=mine"]
    assert notes == ["schedule=scaled_linear is called quadratic here", "variance=fixedlarge is called beta here"]


def test_the_command_says_so_and_takes_it(tmp_path):
    done = command("experiment=smoke", "schedule=scaled_linear", "--cfg", "job", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "schedule=scaled_linear is called quadratic here" in done.stdout
    assert "_target_: ddpm_lab.core.schedule.quadratic" in done.stdout
