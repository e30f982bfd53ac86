"""`convert.py from=PATH`: other people's checkpoint as an ordinary run folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ddpm_lab.config.build import drop_unused
from ddpm_lab.config.combinations import known_side, option_of
from ddpm_lab.config.instantiate import instantiate
from ddpm_lab.config.nested import plain
from ddpm_lab.config.preflight import preflight
from ddpm_lab.domains import shown
from ddpm_lab.errors import UserError
from ddpm_lab.interop.layout import Found, Layout, read_weights
from ddpm_lab.interop.recognise import by_blocks, current_weights, kind_of, looked_at, recognised
from ddpm_lab.interop.source import Source
from ddpm_lab.nets.unet import UNet

SIZES = {"cifar10": 32, "cifar": 32, "celeba64": 64, "celeba": 64, "imagenet64": 64}
"""Of images, by what a file or its folder is named after."""


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
    """What was not, in words, by the key that says otherwise."""


NOT_OF_IMPORTS = ("base", "head", "launcher", "resume", "sweep")
"""Groups and keys of train.py that an import cannot have."""


def imported(source: Source, origin: str, asked: Asked, typed: Sequence[str], dirs: Sequence[Path]) -> Imported:
    """The configuration and the checkpoint of a run with the network of `source`. `origin`: what was typed after from=.
    `typed`: further words of train.py, which win over what the file says. Raises UserError."""
    if wrong := next((word for word in typed if word.partition("=")[0].partition(".")[0] in NOT_OF_IMPORTS), None):
        raise UserError(f"{wrong}: nothing is trained here; give it to train.py, with base= of what was imported")
    kind = kind_of(source, asked.weights)
    source.weights = {kind: source.weights[kind]}
    layout = recognised(source, kind, asked.layout)
    layout = by_blocks(layout) if asked.qkv == "blocks" else layout
    values = {key: value for key, _, value in (word.partition("=") for word in typed)}
    found = looked_at(layout, source, kind, _of_net(values))
    found.assumed = [line for line in found.assumed if _key(line) not in values]
    size = _size(found, asked, source)
    words = _words(found, size, values, source)
    (arm,) = preflight([*words, *(word for word in typed if not word.startswith("net."))], dirs)
    config = arm.config
    OmegaConf.set_struct(config, False)
    for key in ("sweep", "launcher", "base"):
        config.pop(key)
    drop_unused(config)
    config.imported = _provenance(source, origin, layout, kind, found)
    state = _state(layout, found, size, source, kind, config)
    shape = (found.channels, size, size)
    checkpoint = {
        "config": plain(config),
        "shape": list(shape),
        "levels": instantiate(plain(config), "data").levels,
        "global_step": source.step,
    }
    facts = [*_facts(layout, found, size, source, kind, [state, source.weights[kind]]), *_described(plain(config), size, dirs)]
    return Imported(config, checkpoint | _placed(kind, state), facts, {_key(line): line for line in found.assumed})


def _described(config: dict[str, Any], size: int, dirs: Sequence[Path]) -> list[str]:
    """What it is a run of; and of data with images of another size, that they are none to measure it on."""
    names = {group: option_of(group, config[group], dirs) for group in ("schedule", "prediction", "variance", "loss", "data")}
    side = known_side(config, instantiate(config, "data"))
    other = f"images of data={names['data']} are {side}×{side}: sample.py takes this network, and evaluate.py does not"
    words = [f"{group}={name}" for group, name in names.items()]
    return [" ".join([*words, f"schedule.T={config['schedule']['T']}"]), *([other] if side not in (None, size) else [])]


def _key(word: str) -> str:
    return word.partition("=")[0]


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


def _size(found: Found, asked: Asked, source: Source) -> int:
    if found.size is not None and asked.size not in (None, found.size):
        raise UserError(f"size={asked.size}: {source.path} says {found.size}")
    size = asked.size or found.size or next((n for word, n in SIZES.items() if word in str(source.path).lower()), None)
    if size is None:
        raise UserError("size is needed: the side of the images, which the file does not say; type size=32, or what it is")
    return size


def _words(found: Found, size: int, values: dict[str, str], source: Source) -> list[str]:
    """What the file says, as words of train.py, but for what was typed. Raises UserError for what it does not say."""
    name = str(source.path).lower()
    groups = {key for key in values if "." not in key}  # of another option the file's values are none, but for its length
    words = [word for word in found.words if word.startswith("schedule.T=") or word.partition(".")[0] not in groups]
    words = ["experiment=none", "net=unet", *words]
    if "data" not in values:
        data = next((data for data in ("cifar10", "celeba") if data in name), None)
        if data is None:
            raise UserError(
                "data is needed: on what the network was trained, which the file does not say; type data=cifar10, or what it is"
            )
        words += [f"data={data}", *([f"data.size={size}"] if data == "celeba" else [])]
    if needed := next((group for group in found.asked if not any(key in values for key in group.split(" or "))), None):
        raise UserError(f"{needed} is needed, which the file does not say; type {found.asked[needed]}, or what it is")
    if found.net.get("time_scale") == "1000/T":
        T = values.get("schedule.T") or next((w.partition("=")[2] for w in found.words if w.startswith("schedule.T=")), "1000")
        found.net["time_scale"] = 1000 / int(T) if T.isdecimal() and int(T) else 1.0  # what else it is, is refused below
    net = dict(found.net)
    if "net.attention" not in values:
        net["attention"] = [size // 2**i for i in net["attention"]]
    return [word for word in words if word.partition("=")[0] not in values] + [f"net.{k}={shown(v)}" for k, v in net.items()]


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


def _provenance(source: Source, origin: str, layout: Layout, kind: str, found: Found) -> dict[str, Any]:
    return {
        "from": origin,
        "layout": layout.name,
        "weights": kind,
        "sha256": dict(source.files),
        "assumed": list(found.assumed),
    }


def _of(kind: str) -> str:
    return {"ema": "averaged weights (EMA)", "raw": "raw weights", "given": "weights of which it is not said whether averaged"}[
        kind
    ]
