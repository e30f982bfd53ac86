"""The page behind --help, made from the yaml files and their comments alone."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from ddpm_lab.config.catalogue import Catalog, Key
from ddpm_lab.config.options import choices_made, description, groups, is_global, nearest, options
from ddpm_lab.errors import UserError

WIDTH = 100

TRAIN = """\
Train a denoising diffusion model and measure it: bits/dim by term, samples, Fréchet distance.

  python train.py                                       handwritten digits on a CPU, in minutes
  python train.py schedule=cosine loss=vlb              choose options
  python train.py schedule.T=200 optim.lr=0.0005        change values
  python train.py -m schedule=linear,cosine seed=1,2,3  every combination, each in its own process
  python train.py -m sweep=variance                     a ready sweep; the same command goes on
  python train.py -m seed=1,2,3 launcher=slurm          each as a job of SLURM
  python train.py resume=outputs/digits/RUN             continue a run exactly where it stopped
  python train.py --help sampler                        the keys and values of one group
  python train.py --config-dir=FOLDER net=mine          your own options, as FOLDER/net/mine.yaml
"""

EVALUATE = """\
Measure a trained model: bits/dim by term on any chain, samples by every score, each number with how it came about.

  python evaluate.py ckpt=outputs/digits/RUN                 its own sampler and variance
  python evaluate.py ckpt=RUN sampler=ddim sampler.steps=50  another sampler; nothing is trained again
  python evaluate.py -m ckpt=RUN variance=beta,beta_tilde,analytic sampler=ancestral,ddim sampler.steps=10,25,50
  python evaluate.py ckpt=RUN nll.terms=10                   the bound from ten terms per datum
  python evaluate.py ckpt=RUN metrics=inception quality.n=50000
  torchrun --nproc-per-node=4 evaluate.py ckpt=RUN           on four processes: the same numbers

What was measured is kept under eval/work of the run: the same command after a stop goes on from there.
"""


def _script(top: str) -> str:
    return "evaluate.py" if top == EVALUATE else "train.py"


def help_text(dirs: Sequence[Path], top: str = TRAIN) -> str:
    """Usage, every group with its options, and the keys that stand outside the groups."""
    defaults = groups(dirs)
    parts = [top, "Groups and their options (* default):", ""]
    for group, default in defaults.items():
        files = options(group, dirs)
        width = max(map(len, files), default=0)
        parts.append(f"{group}=")
        parts += [_option_line(name, path, name == default, width) for name, path in files.items()]
    parts += ["", *_footnote(defaults, dirs), "Keys outside the groups:", ""]
    root = rules_of(dirs[0] / "config.yaml")
    parts += _key_lines({key: rule for key, rule in root.items() if not key.startswith("hydra.")}, "  ")
    return "\n".join(parts) + "\n"


def help_for_group(group: str, dirs: Sequence[Path], top: str = TRAIN) -> str:
    """Every option of a group with its keys: value, what is allowed, meaning."""
    defaults = groups(dirs)
    if group not in defaults:
        close = nearest(group, defaults)
        question = f" Did you mean --help {close}?" if close else ""
        raise UserError(f"--help {group}: no such group.{question} Groups: {', '.join(defaults)}")
    parts = [f"python {_script(top)} {group}=OPTION (* default)"]
    for name, path in options(group, dirs).items():
        prefix = "" if is_global(path) else f"{group}."
        rules = {f"{prefix}{key}": rule for key, rule in rules_of(path).items()}
        chosen = [f"{key}={option}" for key, option in choices_made(path).items()] if is_global(path) else []
        parts += ["", _option_line(name, path, name == defaults[group], 0)]
        parts += [f"      {line}" for line in chosen] + _key_lines(rules, "      ")
    return "\n".join(parts) + "\n"


def _footnote(defaults: dict[str, str | None], dirs: Sequence[Path]) -> list[str]:
    """An experiment may choose other options than the defaults: say so for the one that is the default itself."""
    name = defaults.get("experiment")
    path = options("experiment", dirs).get(name or "")
    made = choices_made(path) if path else {}
    other = " ".join(f"{key}={option}" for key, option in made.items() if defaults.get(key) != option)
    if not other:
        return []
    text = f"experiment={name} replaces these defaults by {other}; what you type wins over both."
    return [textwrap.fill(text, WIDTH), ""]


def _option_line(name: str, path: Path, default: bool, width: int) -> str:
    start = f"  {'*' if default else ' '} {name:{width}}  "
    return _wrapped(start, description(path))


def _key_lines(rules: dict[str, Rule], indent: str) -> list[str]:
    heads = {key: f"{indent}{key}={rule.default}" for key, rule in rules.items()}
    width = max((len(head) for head in heads.values() if len(head) < WIDTH // 2), default=0) + 2
    lines = []
    for key, rule in rules.items():
        if len(heads[key]) < width:
            lines.append(_wrapped(f"{heads[key]:{width}}", _explained(rule)))
        else:  # a long list
            lines.append(textwrap.fill(heads[key].lstrip(), WIDTH, initial_indent=indent, subsequent_indent=f"{indent}    "))
            lines += [_wrapped(f"{indent}    ", _explained(rule))] if _explained(rule) else []
    return lines


def _explained(rule: Rule) -> str:
    return rule.meaning if isinstance(rule.kind, Anything) and rule.allowed == "anything" else f"{rule.allowed}: {rule.meaning}"


def _wrapped(start: str, text: str) -> str:
    if not text:
        return start.rstrip()
    return textwrap.fill(text, WIDTH, initial_indent=start, subsequent_indent=" " * len(start), break_on_hyphens=False)
