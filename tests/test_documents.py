"""What the documents say holds: command lines, the example of README.md, lengths, links."""

import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from documented_checkpoints import bring, documented
from helpers import ROOT, TINY, command_here, environment
from PIL import Image

from ddpm_lab.config.grammar import Setting, expand

README, ARCHITECTURE = ROOT / "README.md", ROOT / "ARCHITECTURE.md"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    return [code for name, code in BLOCK.findall(page.read_text()) if name == language]


INDEXED_ROW = re.compile(r"^\| .+? \| \S+\.py \| .+? \|$", re.MULTILINE)


@pytest.mark.parametrize(("page", "most"), [(README, 800), (ARCHITECTURE, 610)], ids=lambda value: getattr(value, "stem", None))
def test_words_are_few(page, most):
    """Without the equation index, which has a row for each equation that there is."""
    assert len(INDEXED_ROW.sub("", page.read_text()).split()) <= most


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_citation_and_package_have_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])


def test_the_workflow_runs_what_ci_runs_and_both_ends_of_the_versions():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    run = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()}
    assert run == {"everything": [".ci/run"], "versions": ["pip install uv", "make ${{ matrix.corner }}"]}
    soak = yaml.safe_load((ROOT / ".github" / "workflows" / "soak.yml").read_text())["jobs"]["soak"]
    assert soak["steps"][-1]["run"] == "make soak"
    corners = jobs["versions"]["strategy"]["matrix"]["corner"]
    assert re.search(rf"^{' '.join(corners)}:", (ROOT / "Makefile").read_text(), re.M)


# Code and command lines

COMMAND = re.compile(
    r"(?:^ {4}(?:\$ )?|`)(python (?:train|evaluate|sample|figures|compare|dashboard|convert)\.py[^`\n]*)", re.MULTILINE
)
PLACEHOLDERS = ("OPTION", "GROUP", "…", "schedule=power")
"""Of commands that are not whole, or need the example of README.md, which has a test of its own."""
REFUSED = ("schedule=cosin", "loss=simple variance=learned_range", "variance=learned_range loss=simple")
"""Mistakes that the documents show on purpose."""


def commands() -> Iterator[tuple[str, str]]:
    """(page, line) of each command, where it stands first; lines that end in a backslash joined."""
    seen = set[str]()
    for page in PAGES:
        for line in COMMAND.findall(page.read_text().replace("\\\n", " ")):
            line = shlex.join(shlex.split(line, comments=True))
            if line not in seen and not any(word in line for word in PLACEHOLDERS) and not line.endswith(REFUSED):
                seen.add(line)
                yield page.name, line


def test_commands_are_seen():
    assert {"README.md", "options.md", "sweeps.md", "measuring.md", "statistics.md"} <= {page for page, _ in commands()}
    assert len(list(commands())) > 30


def test_the_first_code_of_readme_runs():
    exec(compile(blocks(README, "python")[0], "README.md", "exec"), {})


LONG_CHAIN = [
    *TINY,
    "schedule.T=1000",
    "sampler.steps=10",
    "callbacks.vlb_terms.stride=100",
    "callbacks.vlb_terms.final_stride=100",
]
"""Two steps, of a chain long enough for what the documents ask."""


@pytest.fixture(scope="module")
def desk(run_of, tmp_path_factory):
    """A folder that has what the documents name: a run, a sweep, images, options of a user's own."""
    folder = tmp_path_factory.mktemp("desk")
    for place in ("outputs/digits/RUN", "outputs/multirun/2026-01-01_12-00-00/0", "outputs/multirun/chapter/0", "RUN"):
        shutil.copytree(run_of(*LONG_CHAIN), folder / place)
    shutil.copytree(run_of(*LONG_CHAIN, "data.conditional=true"), folder / "CONDITIONAL")
    quick = ["trainer.max_steps=2", "trainer.validate_every=2", "callbacks.vlb_terms=null", f"base={folder}/outputs/digits/RUN"]
    assert command_here("head=ocm", *quick, cwd=folder).returncode == 0
    images = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    np.savez(folder / "my_images.npz", images)
    documented(folder)
    (folder / "photos").mkdir()
    Image.fromarray(images[0]).save(folder / "photos" / "0.png")
    for page in PAGES:
        for code in blocks(page, "yaml"):
            if match := re.match(r"# FOLDER/(\S+\.yaml)", code):
                (folder / "FOLDER" / match[1]).parent.mkdir(parents=True, exist_ok=True)
                (folder / "FOLDER" / match[1]).write_text(code)
    return folder


def parse(program: str, argv: list[str]) -> None:
    """All that happens before anything is trained, measured or fetched; small networks of others do come in."""
    if program == "convert":
        return bring(*argv)
    from ddpm_lab.cli import compare, dashboard, evaluate, explain
    from ddpm_lab.config.evaluated import completed, completed_for_figures, completed_for_samples, trained_by
    from ddpm_lab.config.flags import config_dirs
    from ddpm_lab.config.grammar import canonical
    from ddpm_lab.config.help import EVALUATE, FIGURES, SAMPLE, TRAIN, help_for_group, help_text
    from ddpm_lab.config.options import conf_dir
    from ddpm_lab.config.preflight import preflight

    if program == "compare" and argv[0] == compare.EXPLAIN:
        return explain.parsed(argv[1:]) if argv[1:] else None  # alone it lists what there is
    if program in ("compare", "dashboard"):
        {"compare": compare, "dashboard": dashboard}[program].parsed(argv)
        return
    above = {"train": [], "evaluate": ["evaluate"]}.get(program, [program, "evaluate"])
    dirs = [*(conf_dir() / name for name in above), *config_dirs(argv)]
    if "--help" in argv:
        pages = {"train": TRAIN, "evaluate": EVALUATE, "sample": SAMPLE, "figures": FIGURES}
        top, groups = pages[program], argv[argv.index("--help") + 1 :]
        assert help_for_group(groups[0], dirs, top) if groups else help_text(dirs, top)
    elif program == "train":
        assert preflight(canonical(argv, dirs)[0], dirs)
    else:
        argv = evaluate.with_own_parts(evaluate.with_variances(canonical(argv, dirs)[0], dirs)[0], dirs)
        typed = {word.partition("=")[0] for word in argv}
        others = {"sample": completed_for_samples, "figures": completed_for_figures}
        check = others.get(program) or functools.partial(completed, typed=typed, read=functools.cache(trained_by))
        assert preflight(argv, dirs, lambda cfg, dirs, sweep: check(cfg, dirs))


def covering(runs: list[list[Setting]]) -> list[list[Setting]]:
    """Of the runs of a sweep the first, and each with a word that none before has: every value, not every combination."""
    kept, seen = [], set[str]()
    for run in runs:
        words = {setting.typed for setting in run}
        if not kept or not words <= seen:
            kept.append(run)
        seen |= words
    return kept


@pytest.mark.slow
def test_every_command_line_parses(desk, monkeypatch):
    monkeypatch.chdir(desk)
    monkeypatch.setattr("ddpm_lab.config.preflight.expand", lambda *given: covering(expand(*given)))
    wrong = {}
    for page, line in commands():
        _, script, *argv = shlex.split(line)
        try:
            parse(script.removesuffix(".py"), argv)
        except Exception as error:
            wrong[f"{page}: {line}"] = repr(error)
    assert wrong == {}


@pytest.mark.slow
def test_the_code_of_the_pages_runs(desk, monkeypatch):
    import torch

    monkeypatch.chdir(desk)
    images = torch.randint(0, 17, (20, 1, 8, 8), dtype=torch.uint8)
    for page in PAGES:
        for code in blocks(page, "python"):
            if "load(" in code:
                exec(compile(code, page.name, "exec"), {"uint8_images": images})


EXAMPLE = re.compile(r"^(Append to|Write) `(\S+)`:\n\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILES = {
    "src/ddpm_lab/core/schedule.py": "Append to",
    "conf/schedule/power.yaml": "Write",
    "tests/core/reference.py": "Append to",
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The repository with README's example followed to the letter."""
    folder = tmp_path_factory.mktemp("clone") / "ddpm-lab"
    for part in ("src", "conf", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("pyproject.toml", "train.py"):
        shutil.copy(ROOT / part, folder / part)
    for verb, path, text in EXAMPLE.findall(README.read_text()):
        assert verb == FILES[path]
        with (folder / path).open("x" if verb == "Write" else "a", encoding="utf-8") as file:
            file.write(text if verb == "Write" else f"\n\n{text}")
    return folder


def in_copy(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = {"PYTHONPATH": os.pathsep.join([str(folder / "src"), str(folder / "tests")])}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment() | paths, capture_output=True, text=True)


@pytest.mark.slow
def test_the_example_of_readme_passes_the_tests(copy):
    assert {path for _, path, _ in EXAMPLE.findall(README.read_text())} == FILES.keys()
    tests = ("tests/core/test_schedule.py", "tests/core/test_reference.py")
    done = in_copy(copy, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *tests, "-k", "power")
    assert done.returncode == 0, done.stdout
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) >= 4


@pytest.mark.slow
def test_the_example_of_readme_trains(copy):
    (typed,) = [line for line in COMMAND.findall(README.read_text()) if "schedule=power" in line]
    _, *arguments = shlex.split(typed)
    trained = in_copy(copy, *arguments, "trainer.fast_dev_run=true", "callbacks=none")
    assert trained.returncode == 0, trained.stderr
    refused = in_copy(copy, "train.py", "schedule=power", "schedule.p=-1")
    assert refused.returncode == 2
    assert all(word in refused.stderr for word in ("schedule.p=-1", "> 0"))
    assert "power  ᾱ falls as a power" in in_copy(copy, "train.py", "--help", "schedule").stdout
