"""Who may enter whose room: read from the imports of every file, also those inside functions."""

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import TINY

SRC = Path(__file__).parents[1] / "src" / "ddpm_lab"
FILES = {
    ".".join(path.relative_to(SRC.parent).with_suffix("").parts).removesuffix(".__init__"): path for path in SRC.rglob("*.py")
}

BASE = {"errors", "files", "domains", "plain", "signals"}
"""What every room may use."""
MAY_ENTER = {
    "core": set(),
    "nets": set(),
    "files": set(),
    "ranks": set(),
    "cores": set(),
    "processes": {"ranks"},
    "tracking": set(),
    "likelihood": {"core"},
    "pictures": {"core.grey"},
    "data": {"core.batch", "core.rng", "core.grey", "core.transfer"},
    "metrics": {"core.rng", "core.grey", "ranks"},
    "models": {"core", "likelihood", "nets", "ranks"},
    "training": {"core", "models", "metrics", "pictures", "ranks", "cores", "tracking"},
    "evaluation": {"core", "likelihood", "models", "metrics", "data", "pictures", "ranks", "cores"},
    "compare": {"metrics.record", "tracking"},
    "sweeps": {"processes"},
    "interop": {"nets"},
}
"""Rooms of ddpm_lab that a room may import from besides itself and BASE. config and cli may import anything."""
PENDING: dict[str, set[str]] = {}
"""Arrows that still run the wrong way. Empty this."""


def imports(path: Path, types: bool = True) -> Iterator[tuple[str, set[str]]]:
    """(module, names taken from it), those of functions included, and with `types` those of type-checking blocks."""
    tree = ast.parse(path.read_text())
    checking = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    left_out = set() if types else {id(inner) for block in checking for inner in ast.walk(block)}
    for node in ast.walk(tree):
        if id(node) in left_out:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, set()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative"
            yield node.module or "", {alias.name for alias in node.names}


def entered(path: Path, types: bool = True) -> set[str]:
    """Modules of ddpm_lab that a file imports; `from ddpm_lab.core import rng` counts as core.rng."""
    modules = set()
    for module, names in imports(path, types):
        if module == "ddpm_lab" or module.startswith("ddpm_lab."):
            inner = {f"{module}.{name}" for name in names} & FILES.keys()
            modules |= {name.removeprefix("ddpm_lab.") for name in inner or {module}}
    return modules


def within(module: str, room: str) -> bool:
    return module == room or module.startswith(f"{room}.")


@pytest.mark.parametrize("room", MAY_ENTER)
def test_rooms_are_entered_only_by_whom_the_plan_names(room):
    allowed = {room, *BASE, *MAY_ENTER[room], *PENDING.get(room, set())}
    files = {name: path for name, path in FILES.items() if within(name, f"ddpm_lab.{room}")}
    assert files
    wrong = {name: sorted(m for m in entered(path) if not any(within(m, a) for a in allowed)) for name, path in files.items()}
    assert not {name: modules for name, modules in wrong.items() if modules}


def importers(package: str) -> set[str]:
    return {name for name, path in FILES.items() if any(within(module, package) for module, _ in imports(path))}


def test_only_training_and_data_modules_know_lightning():
    assert all(
        any(within(name, f"ddpm_lab.{room}") for room in ("training", "data", "cli", "config", "processes"))
        for name in importers("lightning")
    )


def test_only_the_root_and_the_command_know_hydra():
    roots = ("config", "cli", "processes")
    assert all(any(within(name, f"ddpm_lab.{room}") for room in roots) for name in importers("hydra"))
    assert all(any(within(name, f"ddpm_lab.{room}") for room in roots) for name in importers("omegaconf"))


def test_core_and_nets_are_torch_alone():
    """No Lightning, no files, no numpy: maths."""
    for name, path in FILES.items():
        if within(name, "ddpm_lab.core") or within(name, "ddpm_lab.nets"):
            outside = {module.split(".")[0] for module, _ in imports(path)} - sys.stdlib_module_names
            assert outside <= {"torch", "jaxtyping", "annotated_types", "ddpm_lab"}, name


def test_nobody_imports_the_command():
    for name, path in FILES.items():
        if not within(name, "ddpm_lab.cli"):
            assert not [m for m in entered(path) if within(m, "cli")], name


HEAVY = ("torch", "lightning", "sklearn", "matplotlib", "hydra")


def loaded_by(statement: str, before: str = "") -> set[str]:
    """Packages that a statement loads in a new process, beyond those that another has loaded before it."""
    loaded = "{name.partition('.')[0] for name in sys.modules}"
    code = f"import sys\n{before}\nearlier = {loaded}\n{statement}\nprint(*{loaded} - earlier)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_package_itself_loads_nothing_heavy():
    assert not loaded_by("import ddpm_lab; ddpm_lab.UserError") & set(HEAVY)


def test_a_run_is_opened_without_lightning_hydra_or_pictures(run_of):
    loaded = loaded_by(f"import ddpm_lab; ddpm_lab.load({str(run_of(*TINY))!r}).sample(1)")
    assert "torch" in loaded
    assert not loaded & {"lightning", "hydra", "matplotlib", "sklearn", "torchvision", "torchmetrics", "scipy"}


def test_the_command_answers_before_torch_is_loaded():
    """Typos are answered in a tenth of a second; torch alone takes seconds."""
    modules = ", ".join(name for name in FILES if within(name, "ddpm_lab.cli"))
    assert not loaded_by(f"import {modules}") & {"torch", "lightning", "sklearn", "matplotlib"}


OPTIONAL = ("wandb", "mlflow", "trackio", "tensorboard", "torch_fidelity", "torchvision")
DEFAULT_RUN = """
import builtins, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
plain, asked = builtins.__import__, set()

def noted(name, globals=None, *rest, **named):
    if (globals or {{}}).get("__name__", "").startswith("ddpm_lab"):
        asked.add(name.split(".")[0])
    return plain(name, globals, *rest, **named)

builtins.__import__ = noted
from helpers import TINY, trained
trained(Path({folder!r}), *TINY)
print("asked", *asked)
print("loaded", *{{name.split(".")[0] for name in sys.modules}})
"""


def test_a_default_run_asks_for_no_package_of_other_options(tmp_path):
    """What Lightning's metrics load of themselves, as torchvision, is not ours to say."""
    code = DEFAULT_RUN.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "run"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    asked, loaded = (set(line.split()) for line in done.stdout.splitlines()[-2:])
    assert "matplotlib" in asked
    assert not asked & set(OPTIONAL)
    assert not loaded & {"wandb", "mlflow", "trackio", "tensorboard"}


def test_no_module_imports_itself_through_others():
    """No import circle, imports inside functions included."""
    graph = {name: {f"ddpm_lab.{m}" for m in entered(path, types=False)} & FILES.keys() for name, path in FILES.items()}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " → ".join([*way[way.index(name) :], name])
        if name not in done:
            for other in sorted(graph[name] - {"ddpm_lab"}):  # the package's own names are loaded when they are asked for
                visit(other, (*way, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def strings(path: Path) -> Iterator[str]:
    """Text constants of a file that are not docstrings."""
    tree = ast.parse(path.read_text())
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare:
            yield node.value


GROUPS = sorted(path.name for path in (SRC.parents[1] / "conf").iterdir() if path.is_dir())
TYPED = re.compile(rf"\b({'|'.join(GROUPS)})(\.\w+)?=|\b({'|'.join(GROUPS)})\.\w+\b")


@pytest.mark.parametrize("room", ["core", "likelihood", "nets"])
def test_mathematics_knows_no_command_line(room):
    """Messages name arguments: T=0, and neither schedule.T=0 nor schedule=linear."""
    for name, path in FILES.items():
        if within(name, f"ddpm_lab.{room}"):
            assert [text for text in strings(path) if TYPED.search(text)] == [], name


def test_files_have_300_lines_and_functions_40_at_most():
    lengths: dict[str, int] = {}
    for name, path in FILES.items():
        lines = len(path.read_text().splitlines())
        lengths |= {name: lines} if lines > 300 else {}
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                lengths |= {f"{name}.{node.name}": lines} if lines > 40 else {}
    assert lengths == {}


def test_core_loads_torch_and_small_packages_alone():
    core = ", ".join(sorted(name for name in FILES if within(name, "ddpm_lab.core") or within(name, "ddpm_lab.nets")))
    third = loaded_by(f"import {core}", before="import torch") - sys.stdlib_module_names
    small = {
        "jaxtyping",
        "wadler_lindig",
        "pydantic",
        "pydantic_core",
        "annotated_types",
        "typing_inspection",
        "typing_extensions",
    }
    assert {name for name in third if not name.startswith("_")} <= {"ddpm_lab", *small}


@pytest.mark.soak
def test_every_module_can_be_the_first_to_be_imported():
    """No circle that only the usual order hides."""
    known = {name: module for name, module in sys.modules.items() if within(name, "ddpm_lab")}
    try:
        for name in sorted(FILES):
            for loaded in [loaded for loaded in sys.modules if within(loaded, "ddpm_lab")]:
                del sys.modules[loaded]
            importlib.import_module(name)
    finally:
        sys.modules.update(known)
