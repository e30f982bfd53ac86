"""The outgoing half of `python convert.py`: a run as files for other code, and such a file of our own as a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from ddpm_lab.cli.arguments import read
from ddpm_lab.errors import UserError

USAGE = """
A run as files for other code, with a README.md: what it is, what differs there, what was measured, where it comes from.

  python convert.py ckpt=outputs/digits/RUN to=diffusers           a folder that DDPMPipeline.from_pretrained opens
  python convert.py ckpt=outputs/digits/RUN to=safetensors         one file, which ddpm_lab.load and from= open again
  python convert.py ckpt=outputs/imported/RUN to=openai out=there  model.pt for improved-diffusion or guided-diffusion

  ckpt=     a run folder, or a checkpoint
  to=       diffusers, safetensors or openai; what that code cannot have is refused by its name
  out=      a folder that is not there yet; by default exported/diffusers (safetensors, openai) of the run
  weights=  ema, raw, or one of several averages, as ema/0.999 (of a run with ema=posthoc any length, as ema/0.07);
            by default the (first) average where there is one
"""
KEYS = ("ckpt", "to", "out", "weights")
ONLY_HERE = ("ckpt", "to", "out")
"""Those of which from= has none."""


def is_asked(argv: Sequence[str]) -> bool:
    """Whether a command line is of this half."""
    keys = {word.partition("=")[0] for word in argv}
    return bool(keys & set(ONLY_HERE)) and "from" not in keys


def export(argv: Sequence[str]) -> None:
    """Writes a folder and prints where. Raises UserError."""
    others, given = read(argv, KEYS)
    if others:
        raise UserError(f"{others[0]}: not key=value; allowed is {', '.join(KEYS)}")
    if missing := next((key for key in ("ckpt", "to") if not given.get(key)), None):
        example = {"ckpt": "a run folder, or a checkpoint", "to": "diffusers, safetensors or openai"}[missing]
        raise UserError(f"{missing} is needed: {example}")
    if (empty := next((key for key, value in given.items() if not value), None)) is not None:
        raise UserError(f"{empty}=: empty; leave it out, or give it a value")
    from ddpm_lab.config.exported import export

    print("\n  ".join(export(given["ckpt"], given["to"], given.get("out"), given.get("weights"))))


def is_own_file(given: str) -> bool:
    """Whether it is a file that to=safetensors wrote."""
    if not given.endswith(".safetensors"):
        return False
    from ddpm_lab.models.portable import is_portable

    return is_portable(Path(given).expanduser())


def unpack(own: Mapping[str, str], rest: Sequence[str], folder: Path) -> None:
    """Makes a run folder of such a file, and prints where. `own`: the keys of from= with their values; `rest`: all other words.
    Raises UserError."""
    file = Path(own["from"]).expanduser()
    if other := [*(key for key in own if key not in ("from", "name")), *rest]:
        raise UserError(f"{other[0]}: {file} holds its whole configuration; allowed beside from= is name=")
    from omegaconf import DictConfig, OmegaConf

    from ddpm_lab.cli.fit import write_config
    from ddpm_lab.files import new_whole
    from ddpm_lab.models.checkpoint import read_checkpoint, save_checkpoint

    checkpoint = read_checkpoint(file)
    place = {"root": str(folder.parent.parent), "experiment": folder.parent.name, "name": folder.name}
    checkpoint["config"]["run"] = checkpoint["config"].get("run", {}) | place
    with new_whole(folder, "name") as partial:
        save_checkpoint(checkpoint, partial / "checkpoints" / "last.ckpt")
        write_config(partial, cast(DictConfig, OmegaConf.create(checkpoint["config"])))
    print(f"{folder}\n  the run of {file}, step {checkpoint['global_step']}")
