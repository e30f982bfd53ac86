"""The settings of a protocol: values for whichever options are chosen, as lines of words that could be typed.

    settings:
      - sampler.spacing=linspace
      - variance=analytic schedule=cosine variance.max_last_noise=1

A line applies where the options that it names, as `group=option`, are those of the configuration; its other words are then set.
A value that was typed wins. A later line wins over an earlier one.
"""

from collections.abc import Mapping, Sequence, Set
from typing import Any

import yaml

from ddpm_lab.errors import UserError


def apply_settings(config: Any, lines: Sequence[str], options: Mapping[str, str], typed: Set[str]) -> None:
    """Sets values in place, in a mapping or a DictConfig. `options`: the option of each group; `typed`: keys that keep their
    values. Raises UserError for a key that the chosen option lacks."""
    for line in lines:
        words = [word.partition("=")[::2] for word in line.split()]
        conditions = {group: option for group, option in words if "." not in group}
        if any(options.get(group) != option for group, option in conditions.items()):
            continue
        for key, value in words:
            group, _, name = key.partition(".")
            if not name or key in typed:
                continue
            if name not in (config.get(group) or {}):
                raise UserError(f"{key}={value} of the protocol: {group}={options.get(group)} has no such key")
            config[group][name] = yaml.safe_load(value)
