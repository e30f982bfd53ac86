"""Values of a configuration, held against the signatures of what they reach: after import, before any folder is made."""

from collections.abc import Mapping
from typing import Any

from ddpm_lab.config.catalogue import Catalog, Choices
from ddpm_lab.config.instantiate import resolve_target
from ddpm_lab.config.options import content
from ddpm_lab.config.settings import Search, Sweep, sections
from ddpm_lab.config.signature import Explain, inspected, parameters
from ddpm_lab.errors import UserError

AUTO = "auto"
"""As `_target_`: what takes its place is known later."""


def sections_of(catalog: Catalog) -> dict[str, type]:
    """The signatures of the keys outside the groups, by their place."""
    return sections(evaluation=catalog.dirs[0].name == "evaluate")


class Checked:
    """Checks configurations, each node with the same values once."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._good: set[tuple[str, str]] = set()

    def __call__(self, config: Mapping[str, Any], choices: Choices, typed: Mapping[str, str]) -> None:
        """Raises UserError for a value or a signature that is not right. `typed`: values as the user wrote them, by key."""
        meanings = self.catalog.keys_for(choices)

        def explain(key: str) -> tuple[str | None, str]:
            return typed.get(key), meanings[key].meaning if key in meanings else ""

        for place, settings in sections_of(self.catalog).items():
            top = {key for key in self.catalog.root if "." not in key}
            node = {key: value for key, value in config.items() if key in top} if place == "" else config[place]
            inspected(place, settings, node, explain)
        for group in self.catalog.groups:
            if group in config:
                self._group(group, config[group], f"{group}={choices.get(group)}", explain)

    def _group(self, group: str, node: Any, chosen: str, explain: Explain) -> None:
        if not isinstance(node, Mapping):
            raise UserError(f"{chosen}: {group} holds no keys")
        if group == "sweep":
            inspected(group, Search if "trials" in node else Sweep, node, explain)
        elif "_target_" in node:
            self._node(group, node, chosen, explain)
        else:
            if not node or any(part is not None and not isinstance(part, Mapping) for part in node.values()):
                raise UserError(f"{chosen}: its file has no _target_, which names the class or function to build")
            for name, part in node.items():
                if part is not None:
                    self._node(f"{group}.{name}", part, chosen, explain)

    def _node(self, key: str, node: Mapping[str, Any], chosen: str, explain: Explain) -> None:
        if node.get("_target_") == AUTO:
            return
        values = dict(node)
        name = values.pop("_target_", None)
        if not isinstance(name, str):
            raise UserError(f"{chosen}: {key} has no _target_, which names the class or function to build")
        if (key, str(node)) in self._good:
            return
        try:
            inspected(key, resolve_target(name, key), values, explain)
        except UserError as error:
            raise UserError(str(error) if str(error).startswith(key) else f"{chosen}: {error}") from error
        self._good.add((key, str(node)))


def domain_of(key: str, catalog: Catalog, choices: Choices) -> Any:
    """What a key may hold, of the chosen option, or else of the first that has it. None for no such key."""
    if key in catalog.root:
        place, _, name = key.rpartition(".")
        return parameters(sections_of(catalog)[place])[name].domain
    group, _, name = key.partition(".")
    having = [option.partition("=")[2] for option in catalog.having(key)]
    option = choices.get(group) if choices.get(group) in having else next(iter(having), None)
    if option is None:
        return None
    node: Any = content(group, option, catalog.dirs)
    if group == "sweep":
        return parameters(Search)[name].domain
    if "_target_" not in node:
        part, _, name = name.partition(".")
        group, node = f"{group}.{part}", node[part]
    if not node or node["_target_"] == AUTO:
        return None
    known = parameters(resolve_target(node["_target_"], group)).get(name)
    return None if known is None else known.domain
