"""Keys that were typed and cannot act under the rest of a configuration. Values of files and defaults are never reported."""

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, NamedTuple

from ddpm_lab.domains import shown

OURS = "ddpm_lab."
ANALYTIC = "ddpm_lab.core.analytic.Analytic"
MLP = "ddpm_lab.nets.mlp.MLP"


class Values:
    """A nested configuration, read by dotted keys."""

    def __init__(self, cfg: Mapping[str, Any]) -> None:
        self._cfg = cfg

    def __call__(self, key: str) -> Any:
        """None where there is no such key."""
        node: Any = self._cfg
        for part in key.split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        return node

    def typed(self, key: str) -> str:
        """`key=value`; a group by its name alone."""
        value = self(key)
        return key if isinstance(value, Mapping) else f"{key}={shown(value)}"

    def among(self, key: str, *values: object) -> str | None:
        """`key=value` where the key is there and has one of the values."""
        known = all(isinstance(self(parent), Mapping) for parent in [key.rpartition(".")[0]] if parent)
        return self.typed(key) if known and self(key) in values else None

    def target(self, group: str) -> str | None:
        return self(f"{group}._target_")


class Rule(NamedTuple):
    """`keys` cannot act where `cause` gives what prevents it. A key that ends in "." stands for all keys below."""

    keys: tuple[str, ...]
    cause: Callable[[Values], str | None]
    advice: str
    """What to type instead. {key} is the key that was typed."""

    def covers(self, key: str) -> bool:
        return any(key == name or (name.endswith(".") and f"{key}.".startswith(name)) for name in self.keys)


def _above(key: str, *limits: str) -> Callable[[Values], str | None]:
    """Where the value of `key` exceeds the first limit that is set."""

    def cause(at: Values) -> str | None:
        limit = next((limit for limit in limits if at(limit) is not None), None)
        value = at(key)
        exceeds = limit is not None and value is not None and value > at(limit)
        return at.typed(limit) if exceeds and limit is not None else None

    return cause


def _no_gap(at: Values) -> str | None:
    """The bound of training data is measured beside the full bound of held-out data alone."""
    if not at("nll.train_stride"):
        return None
    terms = at.typed("nll.terms") if at("nll.terms") is not None else None
    return at.among("nll.chain", "sampler") or terms or at.among("nll.split", "train")


def _no_gamma(at: Values) -> str | None:
    target = at.target("variance")
    fixed = target is not None and target.startswith(OURS) and target != ANALYTIC
    return "a variance that is not estimated from Γ" if fixed else None


def _all_times(at: Values) -> str | None:
    """A chain of all T steps is the same under every spacing."""
    if at("sampler.spacing") is None:
        return None
    whole = at("schedule.T") is not None and at("sampler.steps") == at("schedule.T")
    return at.typed("sampler.steps") if whole else at.among("sampler.steps", None)


def _published(at: Values) -> str | None:
    return at.typed("quality.statistics") if at("quality.statistics") is not None else None


def _vectors(at: Values) -> str | None:
    return "net=mlp" if at.target("net") == MLP else None


RULES = (
    Rule(("nll.train_stride",), _no_gap, "leave {key} out, or measure nll.split=val nll.chain=full nll.terms=null"),
    Rule(("nll.ode_probes", "nll.ode_tolerance"), lambda at: at.among("nll.ode_n", 0), "add nll.ode_n=64, or leave {key} out"),
    Rule(("gamma.n",), _no_gamma, "use variance=analytic, or leave {key} out"),
    Rule(
        ("quality.reference", "quality.statistics", "quality.grid", "metrics."),
        lambda at: at.among("quality.n", 0),
        "set quality.n to 2 or more, or leave {key} out",
    ),
    Rule(("quality.grid",), _above("quality.grid", "quality.n"), "a picture shows at most the samples that are drawn"),
    Rule(("quality.reference",), _published, "leave one of the two out"),
    Rule(("sampler.spacing",), _all_times, "set sampler.steps below T, or leave {key} out"),
    Rule(
        ("callbacks.samples.rows",),
        _above("callbacks.samples.rows", "callbacks.samples.n"),
        "a picture shows at most the samples that are drawn",
    ),
    Rule(
        ("callbacks.samples.frames",),
        _above("callbacks.samples.frames", "sampler.steps", "schedule.T"),
        "a chain has one frame for each step",
    ),
    Rule(("callbacks.vlb_terms.stride",), _above("callbacks.vlb_terms.stride", "schedule.T"), "a stride is at most T"),
    Rule(
        ("callbacks.vlb_terms.final_stride",), _above("callbacks.vlb_terms.final_stride", "schedule.T"), "a stride is at most T"
    ),
    Rule(("trainer.tf32",), lambda at: at.among("trainer.accelerator", "cpu"), "use trainer=gpu, or leave {key} out"),
    Rule(("trainer.channels_last",), _vectors, "vectors have no memory format: leave {key} out"),
    Rule(("trainer.other_world_size",), lambda at: at.among("resume", None), "add resume=RUN, or leave {key} out"),
    Rule(
        ("logger.project", "logger.entity", "logger.group", "logger.tags", "logger.name", "logger.artifact"),
        lambda at: at.among("logger.mode", "disabled"),
        "use logger.mode=online or offline, or leave {key} out",
    ),
)


def ineffective(cfg: Mapping[str, Any], typed: Set[str]) -> list[str]:
    """One message for each typed key that cannot act: it names the key, what prevents it, and what to type."""
    return list(_messages(cfg, typed).values())


def ineffective_in_all(arms: Sequence[tuple[Mapping[str, Any], Set[str]]]) -> list[str]:
    """The same of a sweep: a key is reported where it acts in no arm."""
    messages = [_messages(cfg, typed) for cfg, typed in arms]
    keys = set.intersection(*(set(of_arm) for of_arm in messages)) if messages else set()
    return [message for key, message in messages[0].items() if key in keys] if messages else []


def _messages(cfg: Mapping[str, Any], typed: Set[str]) -> dict[str, str]:
    at, messages = Values(cfg), {}
    for rule in RULES:
        for key in sorted(filter(rule.covers, typed)):
            cause = rule.cause(at)
            if cause is not None and key not in messages:
                messages[key] = f"{at.typed(key)} has no effect beside {cause}: {rule.advice.format(key=key)}"
    return messages
