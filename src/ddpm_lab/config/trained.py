"""The command line of train.py that makes a configuration."""

from typing import Any

from ddpm_lab.config.combinations import option_of
from ddpm_lab.config.flags import config_dirs
from ddpm_lab.config.nested import leaves, plain
from ddpm_lab.config.options import options
from ddpm_lab.config.preflight import preflight
from ddpm_lab.domains import shown
from ddpm_lab.errors import UserError

PLACES = ("base", "resume", "run", "sweep", "launcher")
"""Keys at the root that say where a run is kept, or that a run has not."""


def training_command(config: dict[str, Any]) -> str | None:
    """Composed again, its words give `config`. None where there is no such line, as of a run by options of a user's own."""
    wanted, dirs, experiment = _flat(config), config_dirs([]), config["run"]["experiment"]
    words = [f"experiment={experiment if experiment in options('experiment', dirs) else 'none'}"]
    try:
        made = plain(preflight(words, dirs)[0].config)
        for group, part in config.items():
            target = part.get("_target_") if isinstance(part, dict) else None
            if target and target != (made.get(group) or {}).get("_target_"):
                words.append(f"{group}={option_of(group, part, dirs)}")
        made = _flat(plain(preflight(words, dirs)[0].config))
        words += [f"{key}={shown(value)}" for key, value in wanted.items() if made.get(key, wanted) != value]
        if _flat(plain(preflight(words, dirs)[0].config)).items() >= wanted.items():
            return " ".join(["python train.py", *(f"'{word}'" if set(word) & set(" [$*?'") else word for word in words)])
    except UserError:
        pass
    return None


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    return leaves({name: value for name, value in config.items() if name not in PLACES})
