"""Numbers that cannot differ between runs of a sweep, by construction: said before it starts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ddpm_lab.config.instantiate import instantiate
from ddpm_lab.config.nested import Config, plain
from ddpm_lab.config.options import content, options
from ddpm_lab.config.preflight import Arm
from ddpm_lab.errors import UserError

ELSEWHERE = ("launcher", "logger", "run", "sweep")
"""Groups that change no number."""


class Trained(NamedTuple):
    """An arm, its configuration in plain containers, and the hash of what its training depends on."""

    arm: Arm
    content: dict[str, Any]
    training: str


def unaffected(arms: Sequence[Arm], dirs: Sequence[Path]) -> list[str]:
    """A line for each choice that cannot change the samples, or the bound, with what to type."""
    from ddpm_lab.config.build import training_identity

    trained = [Trained(arm, content := plain(arm.config), training_identity(content)) for arm in arms]
    lines = []
    for alike in _differing_in("variance", trained):
        unused = [arm for arm in alike if not _sampler_uses_variance(plain(arm.config))]
        if len(unused) > 1:
            better = " or ".join(f"sampler={name}" for name in _samplers_that_use([plain(arm.config) for arm in unused], dirs))
            advice = f"; use {better}" if better else ""
            lines.append(
                f"samples, and each Fréchet distance, cannot differ between {_words(unused, 'variance')}: "
                f"sampler={unused[0].choices['sampler']} does not use the variance{advice}"
            )
    for group in ("sampler", "guidance"):
        for alike in _differing_in(group, trained):
            lines.append(f"bound_bpd cannot differ between {_words(alike, group)}: the bound does not depend on the {group}")
    return list(dict.fromkeys(lines))


def _differing_in(group: str, trained: Sequence[Trained]) -> list[list[Arm]]:
    """Sets of arms that train the same network and differ in nothing but this group."""
    sets: dict[str, list[Trained]] = {}
    for one in trained:
        rest = {key: value for key, value in sorted(one.content.items()) if key not in (group, *ELSEWHERE)}
        sets.setdefault(f"{one.training} {rest}", []).append(one)
    differing = [
        alike for alike in sets.values() if any(one.content.get(group) != alike[0].content.get(group) for one in alike)
    ]
    return [[one.arm for one in alike] for alike in differing]


def _sampler_uses_variance(config: Config) -> bool:
    return instantiate(config, "sampler").uses(instantiate(config, "variance"))


def _samplers_that_use(configs: Sequence[Config], dirs: Sequence[Path]) -> list[str]:
    """Options of the sampler that use each of these variances. One that cannot be built is none."""

    def uses_all(option: str) -> bool:
        sampler = content("sampler", option, dirs)
        try:
            return all(_sampler_uses_variance({**config, "sampler": sampler}) for config in configs)
        except UserError:
            return False

    return [option for option in options("sampler", dirs) if uses_all(option)]


def _words(arms: Sequence[Arm], group: str) -> str:
    """The arguments in which the arms differ, or the option where none is given."""
    common = set.intersection(*(set(arm.overrides) for arm in arms))
    labels = [" ".join(w for w in arm.overrides if w not in common) or f"{group}={arm.choices[group]}" for arm in arms]
    return " and ".join(dict.fromkeys(labels))
