"""`python convert.py`: other people's checkpoints in, ours out."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

from annotated_types import Ge, Le

from ddpm_lab.cli import export
from ddpm_lab.cli.arguments import run
from ddpm_lab.config.catalogue import Catalog
from ddpm_lab.config.flags import config_dirs
from ddpm_lab.config.grammar import canonical, lists_values
from ddpm_lab.config.options import nearest
from ddpm_lab.domains import FolderName, Text, accepts, allowed
from ddpm_lab.errors import UserError
from ddpm_lab.files import check_free, new_whole

if TYPE_CHECKING:
    from ddpm_lab.config.imported import Imported

USAGE = """\
A checkpoint of other code as a run folder, which evaluate.py, sample.py, figures.py and compare.py take.

  python convert.py from=ema_diffusion_cifar10_model.ckpt size=32 data=cifar10
  python convert.py from=FOLDER data=cifar10                     a folder of diffusers
  python convert.py from=hf:google/ddpm-cifar10-32 data=cifar10  a repository of the Hugging Face hub
  python convert.py from=model.pt layout=guided_diffusion size=64 data=celeba schedule=linear net.heads=4

  from=     a checkpoint, a folder of diffusers, or hf:OWNER/NAME[@REVISION]
  layout=   whose names the weights have: diffusers, ddim, ddpm_torch, improved_diffusion, guided_diffusion;
            by default it is recognised, but for guided_diffusion
  weights=  ema or raw; by default averages where the file has them
  size=     the side of the images, where neither the file nor its name says it
  qkv=      blocks: all queries before all keys (use_new_attention_order of guided-diffusion); by default heads
  name=     of the folder in outputs/imported; by default after the file

All other words are those of train.py, as data=cifar10 or variance=beta_tilde, and win over what the file says.
net.time_scale=1000/T is computed for the T of the schedule (rescale_timesteps of OpenAI's code).
"""
OWN: dict[str, Any] = {
    "from": Text,
    "layout": Text,
    "weights": Literal["ema", "raw"],
    "size": Annotated[int, Ge(1), Le(2**16)],
    "qkv": Literal["heads", "blocks"],
    "name": FolderName,
}
"""Keys of this command with what they allow; all others are those of train.py, and win over what the file says."""
NOT_OF_IMPORTS = ("base", "head", "launcher", "resume", "sweep")
"""Groups and keys of train.py that an import cannot have."""


def main() -> None:
    """Exit codes: 0 done, 2 a mistake of the user's, 128 + n stopped by signal n."""
    run(_main, USAGE + export.USAGE)


def _main(argv: list[str]) -> None:
    if export.is_asked(argv):
        return export.export(argv)
    own, rest = parsed(argv)
    _in(own, rest)


def parsed(argv: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The keys of this command with their values, and the words of train.py. Raises UserError."""
    typed = [word.partition("=") for word in argv]
    own = {key: _value(key, value) for key, equals, value in typed if equals and key in OWN}
    rest = [word for word in argv if word.partition("=")[0] not in own]
    keys = [key for key, equals, _ in typed if equals]
    if again := next((key for key in own if keys.count(key) > 1), None):
        raise UserError(f"{again}: given {keys.count(again)} times; give it once")
    if "name" in own and "run.name" in keys:
        raise UserError(f"name={own['name']} and run.name= are one thing: give it once")
    if other := next((word for word in rest if word.partition("=")[0] in export.ONLY_HERE), None):
        raise UserError(f"{other}: of the other direction than from=; one of the two at a time")
    if "from" not in own:
        raise UserError("from is needed: a checkpoint, a folder of diffusers, or hf:OWNER/NAME")
    if flag := next((word for word in rest if word.startswith("-") and not word.startswith(("--config-dir", "-cd"))), None):
        raise UserError(f"{flag}: convert.py has no such flag; allowed is --config-dir=FOLDER, and one file at a time")
    _check_words(rest)
    return own, rest


def _check_words(words: Sequence[str]) -> None:
    """Raises UserError for words of train.py that an import cannot have, and for keys that are no one's."""
    catalog = Catalog.of(*config_dirs(words))
    known = [*OWN, *catalog.groups, *catalog.root]
    meant = [key for key in known if key not in NOT_OF_IMPORTS]
    for word in (word for word in words if "=" in word and not word.startswith("-")):
        key, _, value = word.partition("=")
        group = key.lstrip("+~").partition(".")[0]
        if group in NOT_OF_IMPORTS:
            raise UserError(f"{word}: nothing is trained here; give it to train.py, with base= of what was imported")
        if key == "net" and value != "unet":
            raise UserError(f"{word}: what comes in is net=unet, with the values of the file: leave it out")
        if "." not in key and group not in known and (close := nearest(key, meant)) in (*OWN, *catalog.root):
            raise UserError(
                f"{word}: no such key. Did you mean {close}={value}? Keys here: {', '.join(OWN)}; and those of train.py"
            )
        if lists_values(word):
            raise UserError(f"{word} lists several values; an import has one: leave it to evaluate.py -m, or give one")


def _value(key: str, text: str) -> str | int:
    """Raises UserError for what the key does not allow, with what is meant."""
    domain, value = OWN[key], int(text) if key == "size" and text.isdecimal() else text
    if key == "layout":
        from ddpm_lab.interop.recognise import LAYOUTS  # imports torch

        domain = Literal[tuple(LAYOUTS)]
    if accepts(domain, value):
        return value
    close = nearest(text, get_args(domain)) if get_origin(domain) is Literal else None
    raise UserError(f"{key}={text}: allowed is {allowed(domain)}{f'. Did you mean {key}={close}?' if close else ''}")


def _in(own: Mapping[str, Any], rest: Sequence[str]) -> None:
    if export.is_own_file(own["from"]):
        return export.unpack(own, rest, _folder(own, {}))
    dirs = config_dirs(rest)
    values = {key.lstrip("+"): value for key, _, value in (word.partition("=") for word in rest)}
    rest, notes = canonical([*([] if "experiment" in values else ["experiment=none"]), *rest], dirs)
    folder = _folder(own, values)
    key = next((key for key in ("run.root", "run.experiment", "run.name") if key in values), "name")
    check_free(folder, key)  # said before the file is read
    from ddpm_lab.config.imported import Asked, imported
    from ddpm_lab.interop.source import read

    place, origin = _located(own["from"])
    done = imported(read(place), origin, Asked(*map(own.get, Asked._fields)), rest, dirs)
    of_run = {"root": str(folder.parent.parent), "experiment": folder.parent.name, "name": folder.name}
    done.config.run.update(of_run)
    done.checkpoint["config"]["run"] |= of_run
    with new_whole(folder, key) as hidden:
        _write(done, hidden)
    print("\n  ".join([str(folder), *notes, *done.facts, *_assumptions(done), f"next: python sample.py ckpt={folder}"]))


def _located(given: str) -> tuple[Path, str]:
    """Where it lies, and how it is called; a repository with its commit."""
    if given.startswith("hf:"):
        from ddpm_lab.interop.hub import fetched

        return fetched(given.removeprefix("hf:"))
    return Path(given).expanduser(), given


def _folder(own: Mapping[str, Any], values: Mapping[str, str]) -> Path:
    stem = re.sub(r"\W+", "-", Path(own["from"].removeprefix("hf:").partition("@")[0]).stem).strip("-") or "network"
    root, experiment = values.get("run.root", "outputs"), values.get("run.experiment", "imported")
    return Path(root).expanduser() / experiment / (own.get("name") or values.get("run.name") or stem[:100])


def _write(done: "Imported", folder: Path) -> None:
    from ddpm_lab.cli.fit import write_config
    from ddpm_lab.models.checkpoint import save_checkpoint

    write_config(folder, done.config)
    save_checkpoint(done.checkpoint, folder / "checkpoints" / "last.ckpt")


def _assumptions(done: "Imported") -> list[str]:
    """The words that have one reason together, as they can be typed with other values."""
    reasons = dict.fromkeys(done.assumed.values())
    return [f"assumed: {' '.join(word for word, why in done.assumed.items() if why == reason)}, {reason}" for reason in reasons]


if __name__ == "__main__":
    main()
