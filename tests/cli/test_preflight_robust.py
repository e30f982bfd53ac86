"""Whatever is typed, the answer is one line, comes before torch, and leaves no folder behind."""

import subprocess
import sys

import pytest
from helpers import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpm_lab.config.preflight import preflight
from ddpm_lab.errors import UserError


def answer(*argv: str) -> str:
    """The message, or nothing if the arguments are accepted; any other exception fails the test."""
    try:
        preflight(argv)
    except UserError as error:
        return str(error)
    return ""


WORDS = """
    = == a a= [ é=1 seed=é $ seed=${ - -- ---x ~ + ++ @ a@b@c=1 ~~a seed=1, seed=, seed={ seed={a:{b:1}} seed=' seed=" seed=\\
    .=1 ..=1 a..b=1 seed.=1 .seed=1 /=1 schedule/=1 schedule/linear=1 %s=1 optim.betas.0=1 optim.betas[0]=1 callbacks={}
    hydra=1 hydra.x=[ -cfg --cfg seed=range(1) seed=int(x) seed=1e999 net=a/b/c net=../net/unet net=/etc/passwd
    seed=${oc.env:X_Y_Z} seed=${hydra:job.num} run.root=${now:%Y} seed=extend_list(1)
"""
NASTY = [*WORDS.split(), "", " ", "\n", "seed=\0", "seed=" + "[" * 300, "seed=" + "9" * 500, "data.path=" + "x" * 5000]


@pytest.mark.parametrize("word", NASTY, ids=lambda word: ascii(word)[:30])
@pytest.mark.parametrize("flags", [[], ["-m"]], ids=["run", "sweep"])
def test_nothing_but_a_line_comes_out(flags, word):
    assert answer(*flags, word).count("\n") <= word.count("\n")


TEXT = st.text(alphabet="abT.=[]{}(),'\"$+~@:/\\ -01é\t", max_size=12)


@settings(max_examples=60, deadline=None)
@given(text=TEXT, start=st.sampled_from(["", "seed=", "schedule", "optim.betas="]))
def test_whatever_is_typed(text, start):
    assert len(answer(start + text)) < 600


NAMES_ALONE = """
import sys
from ddpm_lab.config.preflight import preflight
for argv in {lines}:
    try:
        preflight(argv)
    except Exception as error:
        print(type(error).__name__)
print([m for m in ("torch", "lightning", "numpy", "rich", "pydantic", "ddpm_lab.core") if m in sys.modules])
"""
LINES = [
    ["schedule=cosin"], ["shedule=cosine"], ["optim.lrr=1"], ["trainer.max_step=1"], ["-m", "seed=1,2", "lr=1"],
    ["experiment=smoke", "net=mlp"], ["sampler=ancestral", "sampler.eta=1"],
]  # fmt: skip


def test_names_are_answered_from_the_files_alone():
    run = subprocess.run([sys.executable, "-c", NAMES_ALONE.format(lines=LINES)], capture_output=True, text=True, check=True)
    assert run.stdout == "UserError\n" * len(LINES) + "[]\n"


def test_no_folder_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    preflight(["-m", "seed=1,2"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", ["train.py", "evaluate.py", "compare.py", "convert.py", "dashboard.py"])
def test_a_reader_that_goes_away_gets_no_traceback(script):
    """As `head` does."""
    command = [sys.executable, str(ROOT / script), "--help"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == ("", 0)
    process.stderr.close()
