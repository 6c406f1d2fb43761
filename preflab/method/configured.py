"""A method by name, its configs built and checked. No torch here."""

from __future__ import annotations

from typing import Any

from preflab.errors import UserError
from preflab.method import registry
from preflab.method.contract import Algorithm, Needs
from preflab.method.plugins import blamed
from preflab.method.validation import needs_problem
from preflab.settings.fields import as_dict, build_section, deciding
from preflab.settings.training import RolloutConfig, TrainConfig


def label(name: str) -> str:
    """Return what a method is called in tables and settings: the class's name where it is a place."""
    return name.rpartition(":")[2] if ":" in name else name


def config_classes(algorithm: Any) -> dict[str, type]:
    """Return the classes whose fields are a method's settings: its own, and the loop's if it trains anything."""
    loop = {} if algorithm.kind == "decoder" else {"train": TrainConfig}
    return {"config": algorithm.Config, **loop}


class Method:
    """A method by name, with its two configs built and checked against each other.

    Args:
        name: registered name or ``module:Class``.
        algorithm: the class it stands for.
        config: the method's own config.
        train: the optimiser's loop.

    Raises:
        UserError: for anything in them that could not finish.
    """

    def __init__(self, name: str, algorithm: Any, config: Any, train: TrainConfig) -> None:
        self.name, self.label = name, label(name)
        with blamed(f"{name}: the method cannot be made:"):
            self.algorithm: Algorithm = algorithm(config)
        if problem := needs_problem(self.algorithm):  # they may follow from the config
            raise UserError(f"{name}: {problem}")
        self.config, self.train = config, train
        if isinstance(config, RolloutConfig):
            try:
                config.check(train)
            except ValueError as error:
                raise UserError(f"{name}: {error}") from None
            if config.stop_kl is not None and "approx_kl" not in self.algorithm.metrics:
                raise UserError(f"{name}: stop_kl reads the metric approx_kl, which this method does not log")
        if self.algorithm.kind == "trainer" and "auto" in (
            train.per_device_train_batch_size,
            train.gradient_checkpointing,
        ):
            raise UserError(
                f"{name}: its own trainer cannot find out what fits (auto); give per_device_train_batch_size a number, "
                "and gradient_checkpointing true or false"
            )
        self._check_evaluation()
        # With `prepare`, other prompts' responses come from the whole optimiser batch.
        seen = train.optimiser_batch if self.needs.rollout else train.micro_batch
        if self.needs.responses == "single" and seen < 2:
            raise UserError(f"{name}: a batch of {seen} holds no other prompt's response; it must be at least 2")

    def _check_evaluation(self) -> None:
        """See that the method can be looked at while it learns, and by what early stopping is to go by.

        Raises:
            UserError: if not.
        """
        if not self.train.eval_steps:
            return
        if self.algorithm.kind != "loss":
            raise UserError(f"{self.name}: eval_steps is for methods that the loop trains; this one brings its own")
        asked, known = self.train.early_stopping_metric, self._watched()
        if asked not in ("auto", *known):
            raise UserError(f"{self.name}: early_stopping_metric {asked} is not known of it; take {' or '.join(known)}")

    def _watched(self) -> list[str]:
        if self.needs.responses == "sampled":
            return ["reward"]
        return ["loss", *(["accuracy"] if "accuracy" in self.algorithm.metrics else [])]

    @property
    def judged_by(self) -> tuple[str, bool]:
        """What early stopping goes by, and whether more of it is better."""
        asked = self.train.early_stopping_metric
        name = self._watched()[0] if asked == "auto" else asked
        return name, name != "loss"

    def fresh(self) -> Algorithm:
        """Return the algorithm as it is before it has seen anything."""
        algorithm: Algorithm = type(self.algorithm)(self.config)
        return algorithm

    @property
    def settings(self) -> dict[str, Any]:
        """What a person can set, by name, JSON-ready."""
        return {name: part for key in config_classes(self.algorithm) for name, part in as_dict(vars(self)[key]).items()}

    @property
    def needs(self) -> Needs:
        """What the method asks of the loop."""
        return self.algorithm.needs

    def identity(self) -> dict[str, Any]:
        """Return what decides the method's result, JSON-ready."""
        return {
            "method": self.name,
            "source": registry.source_hash(type(self.algorithm)),
            "config": deciding(self.config),
            "train": deciding(self.train),
        }


def make_method(name: str, values: dict[str, Any] | None = None) -> Method:
    """Build a method from its name and one flat mapping of its own fields and, if it trains, those of `TrainConfig`.

    Raises:
        UserError: for an unknown method or anything in the values that could not finish.
    """
    algorithm = registry.load(name)
    parts = build_section(config_classes(algorithm), {**algorithm.training, **(values or {})}, name)
    return Method(name, algorithm, parts["config"], parts.get("train", TrainConfig()))
