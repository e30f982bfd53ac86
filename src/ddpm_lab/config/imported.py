"""`convert.py from=PATH`: other people's checkpoint as an ordinary run folder."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ddpm_lab.config.combinations import check_combination, known_side, option_of, resolve_auto
from ddpm_lab.config.instantiate import instantiate
from ddpm_lab.config.nested import plain
from ddpm_lab.config.preflight import preflight
from ddpm_lab.config.unused import drop_unused
from ddpm_lab.domains import shown
from ddpm_lab.errors import UserError
from ddpm_lab.interop.layout import BY_LENGTH, Found, Layout, read_weights
from ddpm_lab.interop.recognise import LAYOUTS, current_weights, looked_at, ordered, recognised
from ddpm_lab.interop.source import Source
from ddpm_lab.nets.unet import UNet

NAMED = (("cifar[-_]?10", "cifar10", 32), ("celeba(?:64)?(?![-_]?hq)", "celeba", 64), ("imagenet[-_]?64", None, 64))
"""Words in the name of a file or its folder, with the data they tell and the side of images."""


class Asked(NamedTuple):
    """What was typed."""

    layout: str | None = None
    weights: str | None = None
    size: int | None = None
    qkv: str | None = None


class Imported(NamedTuple):
    config: DictConfig
    checkpoint: dict[str, Any]
    facts: list[str]
    """What was found, in lines."""
    assumed: dict[str, str]
    """What was not: words that could be typed, each with the reason for it."""


class Guess(NamedTuple):
    """What a name tells."""

    name: str = ""
    data: str | None = None
    size: int | None = None


def imported(source: Source, origin: str, asked: Asked, typed: Sequence[str], dirs: Sequence[Path]) -> Imported:
    """The configuration and the checkpoint of a run with the network of `source`. `origin`: what was typed after from=.
    `typed`: further words of train.py, which win over what the file says. Raises UserError."""
    kind = source.taken(asked.weights)
    layout = ordered(recognised(source, kind, asked.layout), asked.qkv)
    pairs = [word.partition("=") for word in typed]
    values = {key.lstrip("+"): value for key, _, value in pairs}
    found = looked_at(layout, source, kind, _of_net(values))
    guess = _guessed(origin, source)
    size = _size(found, asked, guess, source)
    words = _words(found, size, values, guess)
    rest = [word for word, (key, _, _) in zip(typed, pairs, strict=True) if not key.lstrip("+").startswith("net.")]
    (arm,) = preflight([*(f"{key}={shown(value)}" for key, value in words.items()), *rest], dirs, partial(_can_be, size=size))
    config, assumed = arm.config, _assumed(found, layout, words, values, asked, guess)
    OmegaConf.set_struct(config, False)
    for key in ("sweep", "launcher", "base"):
        config.pop(key)
    drop_unused(config)
    config.imported = _provenance(source, origin, layout, kind, assumed)
    state = _state(layout, found, size, source, kind, config)
    shape = (found.channels, size, size)
    checkpoint = {
        "config": plain(config),
        "shape": list(shape),
        "levels": instantiate(plain(config), "data").levels,
        "global_step": source.step,
    }
    facts = [*_facts(layout, found, size, source, kind, [state, source.weights[kind]]), *_described(plain(config), size, dirs)]
    return Imported(config, checkpoint | _placed(kind, state), [*facts, *found.notes], assumed)


def _can_be(config: DictConfig, dirs: Sequence[Path], sweep: bool, size: int) -> str | None:
    """As of training, but that data of images of another size are allowed: the network is that of the file."""
    auto = resolve_auto(config, dirs)
    if known_side(plain(config), instantiate(plain(config), "data")) in (None, size):
        check_combination(config, dirs)
    return auto


def _described(config: dict[str, Any], size: int, dirs: Sequence[Path]) -> list[str]:
    """What it is a run of; and of data with images of another size, that they are none to measure it on."""
    names = {group: option_of(group, config[group], dirs) for group in ("schedule", "prediction", "variance", "loss", "data")}
    side = known_side(config, instantiate(config, "data"))
    other = f"images of data={names['data']} are {side}×{side}: sample.py takes this network, and evaluate.py does not"
    words = [f"{group}={name}" for group, name in names.items()]
    return [" ".join([*words, f"schedule.T={config['schedule']['T']}"]), *([other] if side not in (None, size) else [])]


def _of_net(values: Mapping[str, str]) -> dict[str, Any]:
    """The typed parameters of the network, as yaml has them. Raises UserError for what it has not."""
    of_net = {}
    for key, value in values.items():
        if key.startswith("net."):
            try:
                of_net[key.removeprefix("net.")] = yaml.safe_load(value)
            except yaml.YAMLError as error:
                raise UserError(f"{key}={value}: not readable as a value") from error
    return of_net


def _facts(
    layout: Layout, found: Found, size: int, source: Source, kind: str, states: Sequence[Mapping[str, Tensor]]
) -> list[str]:
    """`states`: the weights here, and as the file has them."""
    count = sum(value.numel() for value in states[0].values())
    kinds = sorted({str(value.dtype).removeprefix("torch.") for value in states[1].values()} - {"float32"})
    return [
        f"layout={layout.name}: {count:,} parameters for images of {found.channels}×{size}×{size}; {_of(kind)}",
        *([f"weights of {', '.join(kinds)} are kept as float32"] if kinds else []),
        *(f"{name}, sha256 {digest[:12]}" for name, digest in source.files.items()),
    ]


def _guessed(origin: str, source: Source) -> Guess:
    """By whole words of the name of a repository, or of the file and then its folder."""
    names = [origin.removeprefix("hf:").partition("@")[0]] if origin.startswith("hf:") else source.names()
    for name in names:
        for word, data, size in NAMED:
            if re.search(rf"(?<![a-z0-9]){word}(?![a-z0-9])", name.lower()):
                return Guess(name, data, size)
    return Guess()


def _size(found: Found, asked: Asked, guess: Guess, source: Source) -> int:
    if found.size is not None and asked.size not in (None, found.size):
        raise UserError(f"size={asked.size}: {source.path} says {found.size}")
    size = asked.size or found.size or guess.size
    if size is None:
        raise UserError("size is needed: the side of the images, which the file does not say; type size=32, or what it is")
    return size


def _words(found: Found, size: int, values: Mapping[str, str], guess: Guess) -> dict[str, Any]:
    """What the file says and what is assumed, by key of train.py, but for what was typed. Raises UserError for what it does not
    say."""
    groups = {key for key in values if "." not in key}  # of another option the file's values are none, but for these
    of_any = {"schedule.T"} | ({"schedule.rescale"} if values.get("schedule") == "linear" else set())
    words = {"experiment": "none", "net": "unet"}
    words |= {k: value for k, value in found.words.items() if k in of_any or k.partition(".")[0] not in groups}
    if values.get("schedule", words.get("schedule")) != "linear":
        words.pop("schedule.rescale", None)
    if "data" not in values:
        if guess.data is None:
            raise UserError(
                "data is needed: on what the network was trained, which the file does not say; type data=cifar10, or what it is"
            )
        words |= {"data": guess.data} | ({"data.size": size} if guess.data == "celeba" else {})
    if needed := next((keys for keys in found.asked if not values.keys() & set(keys)), None):
        raise UserError(
            f"{' or '.join(needed)} is needed, which the file does not say; type {found.asked[needed]}, or what it is"
        )
    net = dict(found.net)
    if net.get("time_scale") == BY_LENGTH:
        T = str(values.get("schedule.T", words.get("schedule.T", 1000)))
        net["time_scale"] = 1000 / int(T) if T.isdecimal() and int(T) else 1.0  # what else it is, is refused below
    if "net.attention" not in values:
        net["attention"] = [size // 2**i for i in net["attention"]]
    words = {key: value for key, value in words.items() if key not in values}
    return words | {f"net.{key}": value for key, value in net.items()}


def _assumed(
    found: Found, layout: Layout, words: Mapping[str, Any], values: Mapping[str, str], asked: Asked, guess: Guess
) -> dict[str, str]:
    """The word of each key that was neither said nor typed, and why it is taken."""
    reasons, by_name = dict(found.assumed), f"by the name {guess.name}"
    if found.size is None and asked.size is None:
        reasons["size"] = by_name
    if layout.by_head and asked.qkv is None:
        reasons["qkv"] = "the default of OpenAI's codes: queries, keys and values lie together for each head"
    taken = {**words, "size": guess.size, "qkv": "heads"}
    reasons["data"] = by_name
    return {f"{key}={shown(taken[key])}": why for key, why in reasons.items() if key in taken and key not in values}


def _state(layout: Layout, found: Found, size: int, source: Source, kind: str, config: DictConfig) -> dict[str, Tensor]:
    """The weights of the network of the configuration. Raises UserError."""
    cfg = plain(config)
    if cfg["data"].get("conditional"):
        raise UserError("data.conditional=true: no layout here holds the class of no class; leave it out")
    outputs = found.channels * instantiate(cfg, "variance").n_outputs
    with torch.device("meta"):
        net = instantiate(cfg, "net", in_channels=found.channels, out_channels=outputs, size=size)
    if not isinstance(net, UNet):
        raise UserError(f"net: a {type(net).__name__}; what comes in is a UNet: leave net= out")
    return read_weights(layout, net, current_weights(layout, source, kind), str(source.path))


def _placed(kind: str, state: dict[str, Tensor]) -> dict[str, Any]:
    """Averages are no raw weights, and are not called so."""
    if kind == "ema":
        return {"state_dict": {}, "ema/imported": state}
    return {"state_dict": {f"net.{name}": value for name, value in state.items()}}


def _provenance(source: Source, origin: str, layout: Layout, kind: str, assumed: Mapping[str, str]) -> dict[str, Any]:
    order = {"qkv": "heads" if layout.by_head else "blocks"} if LAYOUTS[layout.name].by_head else {}
    return {
        "from": origin,
        "layout": layout.name,
        "weights": kind,
        **order,
        "sha256": dict(source.files),
        "assumed": [f"{word}, {reason}" for word, reason in assumed.items()],
    }


def _of(kind: str) -> str:
    return {"ema": "averaged weights (EMA)", "raw": "raw weights", "given": "weights of which it is not said whether averaged"}[
        kind
    ]
