"""The page behind --help: options and meanings from the yaml files, domains from the signatures."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from ddpm_lab.config.catalogue import Catalog, Key, keys_of
from ddpm_lab.config.instantiate import permit
from ddpm_lab.config.options import choices_made, description, is_global, nearest
from ddpm_lab.config.values import domain_of
from ddpm_lab.domains import allowed
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
  python train.py head=ocm base=outputs/digits/RUN      a head for the variance of a run
  python train.py --help sampler                        the keys and values of one group
  python train.py --config-dir=FOLDER net=mine          your own options, as FOLDER/net/mine.yaml
"""

EVALUATE = """\
Measure a trained model: bits/dim on any chain, samples by every score, each number with how it came about.

  python evaluate.py ckpt=outputs/digits/RUN                 its own sampler and variance
  python evaluate.py ckpt=RUN sampler=ddim sampler.steps=50  another sampler; nothing is trained again
  python evaluate.py -m ckpt=RUN variance=beta,beta_tilde,analytic sampler=ancestral,ddim sampler.steps=10,25,50
  python evaluate.py -m ckpt=RUN variance=all                every variance that the network can be asked
  python evaluate.py ckpt=RUN nll.terms=null                 every term of the bound, on every datum
  python evaluate.py ckpt=RUN metrics=inception quality.n=50000
  torchrun --nproc-per-node=4 evaluate.py ckpt=RUN           on four processes: the same numbers

What was measured is kept under eval/work of the run: the same command after a stop goes on from there.
"""


SAMPLE = """\
Draw samples from a trained model, and write them to files with a record of how they came about.

  python sample.py ckpt=outputs/digits/RUN n=1000           pictures, a grid, an .npz
  python sample.py ckpt=RUN sampler=ddim sampler.steps=50   another sampler; nothing is trained again
  python sample.py ckpt=RUN show=xt film=[gif,mp4]          their way from noise, as a strip and as films
  torchrun --nproc-per-node=4 sample.py ckpt=RUN n=50000    on four processes: the same samples

The samples are those that evaluate.py measures. The same command after a stop goes on from there.
"""


FIGURES = """\
Draw a figure of a trained model for a paper: PNG, PDF, and a caption that says how it was made.

  python figures.py ckpt=outputs/digits/RUN figure=progressive          x̂_0 on the way from noise to data
  python figures.py ckpt=RUN figure=interpolation figure.method=ddim    between two held-out data
  python figures.py ckpt=RUN figure=inpainting figure.mask=mask.png     fill in what is black in the mask
  python figures.py ckpt=RUN figure=inversion sampler.steps=1000        its codes in unit steps
  python figures.py figure=schedules                                    without a checkpoint
  python figures.py --help figure                                       every figure with its keys
"""


def printed(argv: Sequence[str], dirs: Sequence[Path], top: str) -> None:
    """The page, or that of the group that is named."""
    named = [word for word in argv if not word.startswith("-") and "=" not in word and not Path(word).is_dir()]
    print(help_for_group(named[0], dirs, top) if named else help_text(dirs, top), end="")


def help_text(dirs: Sequence[Path], top: str = TRAIN) -> str:
    """Usage, every group with its options, and the keys that stand outside the groups. Imports none of the options."""
    catalog = Catalog.of(*dirs)
    parts = [top, "Groups and their options (* default):", ""]
    for group, default in catalog.groups.items():
        files = catalog.options[group]
        width = max(map(len, files), default=0)
        parts.append(f"{group}=")
        parts += [_option_line(name, path, name == default, width) for name, path in files.items()]
    parts += ["", *_footnote(catalog), "Keys outside the groups:", "", *_key_lines(catalog, catalog.root, {}, "  ")]
    return "\n".join(parts) + "\n"


def help_for_group(group: str, dirs: Sequence[Path], top: str = TRAIN) -> str:
    """Every option of a group with its keys: value, what is allowed, meaning."""
    catalog = Catalog.of(*dirs)
    if group not in catalog.groups:
        close = nearest(group, catalog.groups)
        question = f" Did you mean --help {close}?" if close else ""
        raise UserError(f"--help {group}: no such group.{question} Groups: {', '.join(catalog.groups)}")
    permit(dirs)
    parts = [f"python {catalog.command}.py {group}=OPTION (* default)"]
    for name, path in catalog.options[group].items():
        made = choices_made(path) if is_global(path) else {}
        keys = keys_of(path) if is_global(path) else catalog.keys(group, name)
        parts += ["", _option_line(name, path, name == catalog.groups[group], 0)]
        parts += [f"      {key}={option}" for key, option in made.items()]
        parts += _key_lines(catalog, keys, None if is_global(path) else {group: name}, "      ")
    return "\n".join(parts) + "\n"


def _footnote(catalog: Catalog) -> list[str]:
    """An experiment may choose other options than the defaults: say so for the one that is the default itself."""
    name = catalog.groups.get("experiment")
    path = catalog.options.get("experiment", {}).get(name or "")
    made = choices_made(path) if path else {}
    other = " ".join(f"{key}={option}" for key, option in made.items() if catalog.groups.get(key) != option)
    if not other:
        return []
    text = f"experiment={name} replaces these defaults by {other}; what you type wins over both."
    return [textwrap.fill(text, WIDTH), ""]


def _option_line(name: str, path: Path, default: bool, width: int) -> str:
    start = f"  {'*' if default else ' '} {name:{width}}  "
    return _wrapped(start, description(path))


def _key_lines(catalog: Catalog, keys: Mapping[str, Key], choices: Mapping[str, str] | None, indent: str) -> list[str]:
    heads = {key: f"{indent}{key}={known.default}" for key, known in keys.items()}
    width = max((len(head) for head in heads.values() if len(head) < WIDTH // 2), default=0) + 2
    lines = []
    for key, known in keys.items():
        explained = _explained(catalog, key, known, choices)
        if len(heads[key]) < width:
            lines.append(_wrapped(f"{heads[key]:{width}}", explained))
        else:  # a long list
            lines.append(textwrap.fill(heads[key].lstrip(), WIDTH, initial_indent=indent, subsequent_indent=f"{indent}    "))
            lines += [_wrapped(f"{indent}    ", explained)] if explained else []
    return lines


def _explained(catalog: Catalog, key: str, known: Key, choices: Mapping[str, str] | None) -> str:
    """Domain and meaning. The meaning alone for files that set values of several groups, and for what has no domain."""
    try:
        domain = None if choices is None else domain_of(key, catalog, {**catalog.groups, **choices})
    except UserError:
        domain = None
    return ": ".join(text for text in ("" if domain is None else allowed(domain), known.meaning) if text)


def _wrapped(start: str, text: str) -> str:
    if not text:
        return start.rstrip()
    return textwrap.fill(text, WIDTH, initial_indent=start, subsequent_indent=" " * len(start), break_on_hyphens=False)
