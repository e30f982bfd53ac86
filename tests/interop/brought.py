"""convert.py in this process."""

import sys
from contextlib import chdir, redirect_stdout
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import ddpm_lab
from ddpm_lab.cli.convert import main
from ddpm_lab.models.run import Run


def brought(folder: Path, file: str, *words: str) -> Run:
    """The run that `python convert.py from=FILE WORDS` makes in a folder."""
    argv = ["convert.py", f"from={file}", "name=it", *words]
    with chdir(folder), redirect_stdout(StringIO()), patch.object(sys, "argv", argv):
        main()
    return ddpm_lab.load(folder / "outputs" / "imported" / "it")
