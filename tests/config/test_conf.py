"""conf/ and the signatures say the same: keys, defaults, domains; and what a key may not hold is refused."""

from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from ddpm_lab.config.catalogue import Catalog, parse_keys
from ddpm_lab.config.instantiate import resolve_target
from ddpm_lab.config.options import conf_dir, content, is_global
from ddpm_lab.config.preflight import preflight
from ddpm_lab.config.signature import parameters
from ddpm_lab.config.values import Search, Sweep, domain_of, sections
from ddpm_lab.domains import accepts, allowed
from ddpm_lab.errors import UserError

CONF = conf_dir()
CATALOG, OF_EVALUATION, OF_FIGURES = (Catalog([*above, CONF]) for above in ([], [CONF / "evaluate"], [CONF / "figures"]))
FILES = sorted(CONF.rglob("*.yaml"), key=str)
HIDDEN = {"ddpm_lab.training.callbacks.samples.Samples": {"batch"}}
"""Arguments that are no choice: they change memory, and no result."""


def nodes() -> dict[str, dict[str, Any]]:
    """Every node with a `_target_`, by its option, and its key where an option holds several."""
    named = {}
    for catalog in (CATALOG, OF_EVALUATION, OF_FIGURES):
        for group, names in catalog.options.items():
            for option, path in names.items():
                values = {} if is_global(path) else content(group, option, catalog.dirs)
                for name, node in {"": values, **values}.items():
                    if isinstance(node, dict) and "." in node.get("_target_", ""):
                        named[f"{group}{name and '.'}{name}={option}"] = node
    return named


def of(name: str) -> dict[str, Any]:
    """The parameters that the keys of a node are."""
    node, group = nodes()[name], name.partition("=")[0].partition(".")[0]
    target = resolve_target(node["_target_"], group)
    hidden = {*HIDDEN.get(node["_target_"], ()), *(set(getattr(target, "passed", ())) - set(node))}
    return {key: p for key, p in parameters(target).items() if p.domain is not None and key not in hidden}


@pytest.mark.parametrize("name", nodes())
def test_keys_of_an_option_are_the_parameters_of_what_it_makes(name):
    node = nodes()[name]
    assert set(node) - {"_target_"} == set(of(name))
    for key, parameter in of(name).items():
        if node[key] != "???":
            assert accepts(parameter.domain, node[key]), f"{key}={node[key]}: {allowed(parameter.domain)}"
            assert not parameter.required, f"{key} has no default in the signature"


def test_the_defaults_of_a_signature_are_those_of_an_option():
    """Options that share a class differ in some values: one of them has the values of the signature."""
    distance: dict[str, list[dict[str, Any]]] = {}
    for name, node in nodes().items():
        defaults = {key: list(p.default) if isinstance(p.default, tuple) else p.default for key, p in of(name).items()}
        differing = {key: value for key, value in defaults.items() if node[key] not in (value, "???")}
        distance.setdefault(node["_target_"], []).append(differing)
    assert {target: options for target, options in distance.items() if {} not in options} == {}


def test_no_option_was_overlooked():
    assert {"callbacks.samples=default", "schedule=linear", "trainer=cpu", "ema=ramp", "data=npz", "variance=analytic"} <= set(
        nodes()
    )
    assert "variance=auto" not in nodes()
    assert "launcher=slurm" in nodes()


@pytest.mark.parametrize("root", ["", "evaluate", "sample", "figures"])
def test_keys_outside_the_groups_are_the_fields_of_settings(root):
    values = OmegaConf.to_container(OmegaConf.load(CONF / root / "config.yaml"))
    keys = {key for key in Catalog([CONF / root, CONF]).root if "." not in key}
    known = sections(root or "train")
    assert set(values) == {*keys, *(set(known) - {""}), "defaults", "hydra"}
    for place, settings in known.items():
        here = values[place] if place else {key: values[key] for key in keys}
        defaults = {key: "???" if p.required else p.default for key, p in parameters(settings).items()}
        assert here == defaults


def test_keys_of_a_sweep_are_the_fields_of_settings():
    for option, settings in {"none": Sweep, "search": Search}.items():
        assert content("sweep", option, [CONF]) == {key: p.default for key, p in parameters(settings).items()}


def test_no_callback_is_missing_among_those_left_out():
    assert content("callbacks", "none", [CONF]) == dict.fromkeys(content("callbacks", "default", [CONF]))


@pytest.mark.parametrize("catalog", [CATALOG, OF_EVALUATION, OF_FIGURES], ids=["training", "evaluation", "figures"])
def test_every_key_is_explained(catalog):
    for group, names in catalog.options.items():
        for option in names:
            keys = catalog.keys(group, option)
            assert [key for key in keys if not keys[key].meaning and key not in catalog.parts(group)] == []
    assert [key for key, known in catalog.root.items() if not known.meaning] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_defaults_are_shown_as_written(path):
    text = path.read_text(encoding="utf-8")
    for key, known in parse_keys(text).items():
        node = yaml.safe_load(text)
        for part in key.split("."):
            node = node[part]
        assert yaml.safe_load(known.default) == node, key


def test_keys_are_where_yaml_puts_them():
    text = """\
# about
_target_: x.Y
defaults: [a]
a:
    b: 'x # y'     # with a hash
    "c": [1,
          2]       # over two lines
    d:             # a block
      - 1
      - 2
    e:             # empty
h: 0.00000001      # as written
i: 3
"""
    keys = parse_keys(text)
    assert {key: known.meaning for key, known in keys.items()} == {
        "a.b": "with a hash", "a.c": "over two lines", "a.d": "a block", "a.e": "empty", "h": "as written", "i": "",
    }  # fmt: skip
    assert (keys["h"].default, keys["a.d"].default) == ("0.00000001", "[1, 2]")


# --- wrong values ----------------------------------------------------------------------------------------------------------

POOL = ["abc", "true", "1.5", "-1", "[x]", "{a: 1}", "null", "nan", "inf", "''", "[]", "0", "2e400", "[[1]]", "[null]"]
"""As typed. Of each key those are wrong that its domain does not accept."""


def wrong(key: str, catalog: Catalog, option: str | None) -> list[str]:
    domain = domain_of(key, catalog, {key.partition(".")[0]: option})
    assert domain is not None, key
    return [text for text in POOL if not accepts(domain, yaml.safe_load(text) if text != "nan" else float("nan"))]


def lines(group: str) -> list[str]:
    """A wrong value of each key of each option."""
    typed = []
    for option in CATALOG.options[group]:
        keys = [key for key in CATALOG.keys(group, option) if key not in CATALOG.parts(group)]
        path = " data.path=FILE" if "data.path" in keys else ""
        for i, key in enumerate(keys):
            values = wrong(key, CATALOG, option)
            start = f"{group}={option}{'' if key == 'data.path' else path}"
            typed.append(f"""{start} {key}={values[i % len(values)].replace(" ", "")}""")
    return typed


@pytest.mark.parametrize("group", [group for group in CATALOG.groups if group not in ("sweep", "launcher", "experiment")])
def test_wrong_values_of_every_key_are_refused_before_a_folder_is_made(group, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    arms = [line.replace("FILE", str(tmp_path / "file")) for line in lines(group)]
    if not arms:
        assert not any(CATALOG.keys(group, option) for option in CATALOG.options[group])
        return
    quoted = ", ".join(f'"{arm}"' for arm in arms)
    with pytest.raises(UserError) as refusal:
        preflight(["-m", f"sweep.arms=[{quoted}]"])
    message = str(refusal.value)
    n = len(set(arms))
    assert n == 1 or message.startswith(f"{n} of the {n} runs"), message
    for arm in arms:
        key, _, value = arm.rpartition(" ")[2].partition("=")
        assert f"{key}={value.strip(chr(39))}: allowed is " in message, (arm, message)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


APART = [*CATALOG.root, *CATALOG.keys("launcher", "slurm"), *CATALOG.keys("sweep", "search")]


@pytest.mark.parametrize("key", APART)
def test_wrong_values_of_keys_outside_a_run_are_refused(key, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    group = key.partition(".")[0]
    before = {"launcher": ["-m", "launcher=slurm"], "sweep": ["-m", "sweep=search"]}.get(group, [])
    for text in wrong(key, CATALOG, {"launcher": "slurm", "sweep": "search"}.get(group))[:3]:
        with pytest.raises(UserError) as refusal:
            preflight([*before, f"{key}={text}"])
        assert f"{key}={text.strip(chr(39))}: allowed is " in str(refusal.value) or "takes one value" in str(refusal.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("key", [*OF_EVALUATION.root, "variance.clip_cov"])
def test_wrong_values_of_an_evaluation_are_refused(key):
    for text in wrong(key, OF_EVALUATION, "analytic")[:3]:
        words = [] if key == "ckpt" else ["ckpt=x"]
        with pytest.raises(UserError, match="allowed is") as refusal:
            preflight([*words, "variance=analytic", f"{key}={text}"], [CONF / "evaluate", CONF], lambda *_: None)
        assert str(refusal.value).startswith(f"{key}=")


SUBTLE = [
    "seed=true",
    "seed=1.0",
    "seed='1'",
    "seed=-1",
    "schedule.T=0",
    "schedule.T=1e3",
    "schedule.T='10'",
    "sampler.steps=0",
    "sampler.clip=1",
    "sampler.clip='true'",
    "optim.betas=[0.9]",
    "optim.betas=[0.9,1.0]",
    "optim.betas=[0.9,0.9,0.9]",
    "optim.betas=0.9",
    "optim.lr=0",
    "optim.lr=-0.0",
    "optim.clip=0",
    "optim.clip=false",
    "optim.decay=null",
    "optim.decay=cosin",
    "optim.decay_final=1",
    "optim.decay_final=-0.1",
    "optim.decay_final=1.5",
    "optim.decay_start=0",
    "ema.decay=1",
    "ema.decay=1.0",
    "ema.also=0.9",
    "ema.also=[null]",
    "net.multipliers=[]",
    "net.multipliers=[0]",
    "net.multipliers=[1.0]",
    "net.multipliers='[1,2]'",
    "net.attention=4",
    "net.dropout=1",
    "net.scale_shift=0",
    "data.flip=null",
    "data.flip=no",
    "data.val_fraction=0",
    "data.val_fraction=1",
    "data.batch_size=1e2",
    "callbacks.samples.n=true",
    "callbacks.frechet.n=1",
    "trainer.devices=0",
    "trainer.precision=32",
    "trainer.precision=bf16",
    "trainer.compile=yes",
    "trainer.max_steps=inf",
    "run.root=null",
    "run.name=.hidden",
    "run.name=a/b",
    "run.experiment=a/../b",
    "resume=7",
    "trainer.limit_train_batches=abc",
    "trainer.enable_progress_bar=1",
]


@pytest.mark.parametrize("word", SUBTLE)
def test_what_is_nearly_right_is_refused(word):
    with pytest.raises(UserError) as refusal:
        preflight([word])
    assert str(refusal.value).startswith(f"{word}: allowed is ")


def test_sixty_values_and_more_are_tried():
    assert sum(len(lines(group)) for group in CATALOG.groups) + len(SUBTLE) > 200
