"""The project's own options: which combinations are refused, with what to type instead, and names of other codebases."""

import pytest
from helpers import command

from ddpm_lab.config.grammar import canonical
from ddpm_lab.config.options import aliases, conf_dir, groups, options
from ddpm_lab.config.preflight import preflight
from ddpm_lab.errors import UserError

DIRS = [conf_dir()]
REFUSED = {
    "schedule=jsd": ("schedule=jsd ends at ᾱ_T = 0, and prediction=eps", "use prediction=mu or prediction=v or prediction=x0"),
    "schedule=zero_terminal_snr": ("schedule=zero_terminal_snr ends at ᾱ_T = 0", "choose schedule=constant or schedule=cosine"),
    "loss=min_snr prediction=mu": ("loss=min_snr", "prediction=mu", "use prediction=eps or prediction=v or prediction=x0"),
    "loss=p2 prediction=mu": ("loss=p2", "prediction=mu", "or choose loss=hybrid or loss=simple or loss=vlb"),
    "loss=truncated_snr": ("loss=truncated_snr", "prediction=eps", "use prediction=v or prediction=x0, or choose loss=hybrid"),
    "loss=constant_weight prediction=mu": ("loss=constant_weight", "prediction=mu", "use prediction=v or prediction=x0"),
    "loss=min_snr prediction=v schedule=jsd": (
        "loss=min_snr gives no weight to t = T of schedule=jsd",
        "use loss=constant_weight",
    ),
    "loss=p2 prediction=x0 schedule=zero_terminal_snr": ("loss=p2 gives no weight to t = T", "or loss=simple"),
    "loss=simple variance=learned_diagonal": ("loss=simple leaves the output of variance=learned_diagonal untrained",),
    "loss=min_snr variance=learned_range": ("loss=min_snr leaves the output of variance=learned_range untrained",),
    "loss=hybrid variance=interpolated": ("loss=hybrid trains the variance", "choose variance=learned_diagonal or"),
    "schedule=jsd prediction=v sampler.spacing=leading": ("sampler.spacing=leading does not begin at T", "trailing, linspace"),
    "metrics=classifier data=celeba": (
        "metrics=classifier is trained on labels, and data=celeba has none: use metrics=inception or metrics=pixels",
        "or choose data=cifar10 or data=digits or data=fashion_mnist or data=mnist",
    ),
    "metrics=classifier experiment=gaussian_mixture": ("metrics=classifier takes images", "use metrics=pixels"),
    "trainer.precision=64-true trainer.sample_precision=bf16-mixed": ("use trainer.sample_precision=32-true",),
    "variance=analytic": ("at evaluation only, as in python evaluate.py ckpt=RUN variance=analytic",),
    "trainer=ddp_multinode": ("trainer.num_nodes=2: start this by torchrun or srun on each of 2 machines",),
    "trainer.devices=2 trainer.fast_dev_run=true": ("trainer.fast_dev_run=true tries one step in one process",),
    "schedule=zero_terminal_snr prediction=v schedule.base=cosine": ("schedule.base=cosine", "linear, quadratic, sigmoid_beta"),
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_what_cannot_work_is_refused(arguments):
    with pytest.raises(UserError) as refusal:
        preflight(arguments.split())
    for said in REFUSED[arguments]:
        assert said in str(refusal.value)


def test_one_bad_run_stops_a_sweep_before_its_first():
    with pytest.raises(UserError, match=r"1 of the 2 runs of this sweep cannot work") as refusal:
        preflight(["-m", "schedule=linear,jsd"])
    assert "schedule=jsd" in str(refusal.value)


@pytest.mark.parametrize("arguments", ["schedule=jsd prediction=x0", "schedule=zero_terminal_snr prediction=v loss=vlb",
                                       "loss=hybrid variance=learned_diagonal", "prediction=mu loss=vlb",
                                       "metrics=classifier data=mnist net.attention=[16]"])  # fmt: skip
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


def test_the_run_says_so_and_takes_it(tmp_path):
    done = command("experiment=smoke", "schedule=scaled_linear", "trainer.fast_dev_run=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "schedule=scaled_linear is called quadratic here" in done.stdout
