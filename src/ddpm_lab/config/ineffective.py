"""Keys that were typed and cannot act under the rest of a configuration. Values of files and defaults are never reported."""

from collections.abc import Callable, Mapping, Sequence, Set
from typing import NamedTuple

from ddpm_lab.config.build import with_optimal
from ddpm_lab.config.instantiate import resolve_target
from ddpm_lab.config.nested import Config, at
from ddpm_lab.config.unused import unmeasurable, without
from ddpm_lab.domains import shown
from ddpm_lab.models.contract import Model

ANALYTIC = "ddpm_lab.core.analytic.Analytic"
CLASSIFIER = "ddpm_lab.metrics.classifier.Classifier"
MLP = "ddpm_lab.nets.mlp.MLP"

Cause = Callable[[Config], str | None]
"""From a configuration to what in it prevents a key from acting, in words; None where nothing does."""


class Rule(NamedTuple):
    """`keys` cannot act where `cause` gives what prevents it. A key that ends in "." stands for all keys below."""

    keys: tuple[str, ...]
    cause: Cause
    advice: str
    """What to type instead. {key} is the key that was typed."""

    def covers(self, key: str) -> bool:
        return any(key == name or (name.endswith(".") and f"{key}.".startswith(name)) for name in self.keys)


def given(config: Config, key: str) -> str:
    """`key=value`; a group by its name alone."""
    value = at(config, key)
    return key if isinstance(value, Mapping) else f"{key}={shown(value)}"


def _has(key: str, *values: object) -> Cause:
    """Where the key has one of the values; without values, where it is set. Not where its group is absent."""

    def cause(config: Config) -> str | None:
        value, above = at(config, key), key.rpartition(".")[0]
        there = (not above or isinstance(at(config, above), Mapping)) and (value in values if values else value is not None)
        return given(config, key) if there else None

    return cause


def _above(key: str, *limits: str) -> Cause:
    """Where the value of `key` exceeds the first limit that is set."""

    def cause(config: Config) -> str | None:
        limit = next((limit for limit in limits if at(config, limit) is not None), None)
        value = at(config, key)
        exceeds = limit is not None and value is not None and value > at(config, limit)
        return given(config, limit) if exceeds and limit is not None else None

    return cause


def _any(*causes: Cause, of: str) -> Cause:
    """The first of several causes. Where the key `of` is off there is nothing to act on, and none is named."""
    return lambda config: next(filter(None, (cause(config) for cause in causes)), None) if at(config, of) else None


def _no_gamma(config: Config) -> str | None:
    target = at(config, "variance._target_")
    if with_optimal(config):
        return None
    fixed = target is not None and target.startswith("ddpm_lab.") and target != ANALYTIC
    return "a variance that is not estimated from Γ" if fixed else None


def _all_times(config: Config) -> str | None:
    """A chain of all T steps is the same under every spacing, but for those by noise, in which times coincide."""
    T = at(config, "schedule.T")
    if at(config, "sampler.spacing") in ("log_snr", "karras"):
        return None
    return _has("sampler.steps", None, *([] if T is None else [T]))(config)


def _no_noise(config: Config) -> str | None:
    """DDIM at η = 0 adds none, but for what is known of Cov(x_0 | x_t)."""
    variance = at(config, "variance._target_") or ""
    fixed = variance == "auto" or variance.startswith("ddpm_lab.core.variance.")
    return _has("sampler.eta", 0)(config) if fixed else None


def _unlabelled(config: Config) -> str | None:
    """Labels reach a conditional model, and the classifier that is trained on them."""
    return None if at(config, "metrics._target_") == CLASSIFIER else _has("data.conditional", False)(config)


def _guided(config: Config) -> str | None:
    return given(config, "guidance.scale") if at(config, "guidance.scale") not in (None, 1) else None


def _given_numbers(config: Config) -> str | None:
    """Numbers that a fitted schedule is given, so that none are measured."""
    return next((key for key in ("schedule.variances", "schedule.distances") if at(config, key) is not None), None)


def _one_term(config: Config) -> str | None:
    """Of a model whose likelihood is one number for each datum, as its class says."""
    target = at(config, "model._target_")
    model = None if target is None else resolve_target(target, "model")
    one = model is not None and getattr(model, "bound_terms", None) is Model.bound_terms
    return f"{model.__name__}, whose likelihood has one term" if model and one else None


def _no_samples_and(*chains: str) -> Cause:
    """Where no samples are drawn, and the likelihoods are of one of these chains."""

    def cause(config: Config) -> str | None:
        causes = [_has("nll.chain", *chains)(config), _has("quality.n", 0)(config)]
        return " ".join(filter(None, causes)) if all(causes) else None

    return cause


def _no_samples(config: Config) -> str | None:
    return f"this model ({lack})" if (lack := without(config, "samples")) else None


def _no_monitor(config: Config) -> str | None:
    lack = unmeasurable(config, (at(config, "callbacks.checkpoints.monitor") or "").removeprefix("val/"))
    return f"this model ({lack})" if lack else None


RULES = (
    Rule(("nll.",), _guided, "guided samples are of no model whose likelihood is known: add guidance=none, or leave {key} out"),
    Rule(("guidance.interval",), _has("guidance.scale", 1), "set another guidance.scale, or leave {key} out"),
    Rule(
        ("nll.train_stride",),  # the bound of training data is measured beside that of held-out data on the full chain alone
        _any(_has("nll.chain", "sampler"), _has("nll.split", "train"), of="nll.train_stride"),
        "leave {key} out, or measure nll.split=val nll.chain=full",
    ),
    Rule(
        ("nll.stride", "nll.clip", "nll.train_stride"),  # of a chain
        _has("nll.chain", "continuous"),
        "leave {key} out, or measure another nll.chain",
    ),
    Rule(
        ("variance.", "sampler.", "gamma.n"),
        _no_samples_and("continuous"),
        "leave all of variance, sampler and gamma.n out, or measure another nll.chain, or samples",
    ),
    Rule(
        ("sampler.",),
        _no_samples_and("full"),
        "the bound of all T steps has no sampler: leave {key} out, or measure another nll.chain, or samples",
    ),
    Rule(("nll.ode_probes", "nll.ode_tolerance"), _has("nll.ode_n", 0), "add nll.ode_n=64, or leave {key} out"),
    Rule(("data.label_dropout",), _has("data.conditional", False), "add data.conditional=true, or leave {key} out"),
    Rule(
        ("data.label_key", "data.val_label_key"),
        _unlabelled,
        "add data.conditional=true or metrics=classifier, or leave {key} out",
    ),
    Rule(("gamma.n",), _no_gamma, "use variance=analytic or sampler.spacing=optimal, or leave {key} out"),
    Rule(
        ("quality.reference", "quality.statistics", "quality.grid", "quality.sets", "metrics."),
        _has("quality.n", 0),
        "set quality.n to 2 or more, or leave {key} out",
    ),
    Rule(("quality.grid",), _above("quality.grid", "quality.n"), "a picture shows at most the samples that are drawn"),
    Rule(("quality.reference",), _has("quality.statistics"), "leave one of the two out"),
    Rule(("sampler.spacing",), _any(_all_times, of="sampler.spacing"), "set sampler.steps below T, or leave {key} out"),
    Rule(("sampler.max_last_noise",), _no_noise, "set sampler.eta above 0, or leave {key} out"),
    *(
        Rule((key,), _above(key, *limits), advice)
        for key, advice, *limits in (
            ("callbacks.samples.rows", "a picture shows at most the samples that are drawn", "callbacks.samples.n"),
            ("callbacks.samples.frames", "a chain has one frame for each step", "sampler.steps", "schedule.T"),
            ("callbacks.vlb_terms.stride", "a stride is at most T", "schedule.T"),
            ("callbacks.vlb_terms.final_stride", "a stride is at most T", "schedule.T"),
        )
    ),
    Rule(
        ("callbacks.vlb_terms.final_stride",),
        _has("callbacks.vlb_terms.final_terms"),
        "add callbacks.vlb_terms.final_terms=null, or leave {key} out",
    ),
    Rule(("trainer.tf32", "trainer.data_on_device"), _has("trainer.accelerator", "cpu"), "use trainer=gpu, or leave {key} out"),
    Rule(
        ("trainer.channels_last",),
        lambda config: "net=mlp" if at(config, "net._target_") == MLP else None,
        "vectors have no memory format: leave {key} out",
    ),
    Rule(("metrics.",), _no_samples, "leave {key} out"),
    Rule(("callbacks.checkpoints.monitor",), _no_monitor, "name another number, or leave {key} out"),
    Rule(
        tuple(f"callbacks.vlb_terms.{key}" for key in ("stride", "final_stride", "final_terms")), _one_term, "leave {key} out"
    ),
    Rule(("schedule.n", "schedule.floor", "schedule.pilot", "schedule.quantity"), _given_numbers, "leave one of the two out"),
    Rule(
        ("schedule.measured_n",),
        lambda config: None if _given_numbers(config) else "a schedule that is not fitted yet",
        "leave {key} out",
    ),
    Rule(("trainer.other_world_size",), _has("resume", None), "add resume=RUN, or leave {key} out"),
    Rule(
        ("logger.project", "logger.entity", "logger.group", "logger.tags", "logger.name", "logger.artifact"),
        _has("logger.mode", "disabled"),
        "use logger.mode=online or offline, or leave {key} out",
    ),
)


def ineffective(arms: Sequence[tuple[Config, Set[str]]]) -> list[str]:
    """One message for each key that acts in none of the arms (configuration, keys that were typed): it names the key, what
    prevents it, and what to type."""
    messages = [_messages(config, typed) for config, typed in arms]
    return [message for key, message in (messages[0] if messages else {}).items() if all(key in of for of in messages)]


def _messages(config: Config, typed: Set[str]) -> dict[str, str]:
    messages: dict[str, str] = {}
    for rule in RULES:
        cause = rule.cause(config)
        for key in sorted(filter(rule.covers, typed)) if cause else ():
            messages.setdefault(key, f"{given(config, key)} has no effect beside {cause}: {rule.advice.format(key=key)}")
    return messages
