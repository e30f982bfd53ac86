"""`python convert.py`: other people's checkpoints in, ours out."""

import re
from pathlib import Path

from ddpm_lab.cli import export
from ddpm_lab.cli.arguments import run
from ddpm_lab.config.flags import config_dirs
from ddpm_lab.config.grammar import canonical
from ddpm_lab.errors import UserError

USAGE = """\
A checkpoint of other code as a run folder, and a run as files for other code.

  python convert.py from=PATH [key=value ...]
  python convert.py from=hf:OWNER/NAME[@REVISION] [key=value ...]

PATH: a folder of diffusers, or a checkpoint of ddim, ddpm-torch, improved-diffusion or guided-diffusion.
"""
OWN = ("from", "layout", "weights", "size", "qkv", "name")
"""Keys of this command; all others are those of train.py, and win over what the file says."""


def main() -> None:
    """Exit codes: 0 done, 2 a mistake of the user's, 128 + n stopped by signal n."""
    run(_main, USAGE + export.USAGE)


def _main(argv: list[str]) -> None:
    if export.is_asked(argv):
        return export.export(argv)
    own = {key: value for key, equals, value in (word.partition("=") for word in argv) if equals and key in OWN}
    rest = [word for word in argv if word.partition("=")[0] not in own]
    if "from" not in own:
        raise UserError("from is needed: a checkpoint, a folder of diffusers, or hf:OWNER/NAME")
    _in(own, rest)


def _in(own: dict[str, str], rest: list[str]) -> None:
    if export.is_own_file(own["from"]):
        return export.unpack(own, rest, _folder(own))
    dirs = config_dirs(rest)
    rest, notes = canonical(rest, dirs)
    from ddpm_lab.config.imported import Asked, imported
    from ddpm_lab.interop.source import read

    asked = Asked(own.get("layout"), own.get("weights"), int(own["size"]) if "size" in own else None, own.get("qkv"))
    done = imported(read(Path(own["from"]).expanduser()), own["from"], asked, rest, dirs)
    folder = _folder(own)
    from ddpm_lab.cli.fit import write_config
    from ddpm_lab.models.checkpoint import write_archive

    done.config.run.experiment, done.config.run.name = folder.parent.name, folder.name
    done.checkpoint["config"]["run"] |= {"experiment": folder.parent.name, "name": folder.name}
    write_archive(done.checkpoint, folder / "checkpoints" / "last.ckpt")
    write_config(folder, done.config)
    print("\n  ".join([str(folder), *notes, *done.notes]))


def _folder(own: dict[str, str]) -> Path:
    stem = own.get("name") or re.sub(r"\W+", "-", Path(own["from"].rpartition(":")[2]).stem).strip("-")
    return Path("outputs", "imported", stem)


if __name__ == "__main__":
    main()
