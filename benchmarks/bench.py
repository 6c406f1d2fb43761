"""One run of one side, in this process.

    python -m benchmarks.bench '{"workload": "dpo", "side": "native", ...}'

prints its `Result` as JSON; the commands beside this module start it.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.shapes import make_groups
from benchmarks.workloads import PRESETS, Job, Result

if TYPE_CHECKING:
    from preflab.data.encoding import EncodedGroup
    from preflab.method.configured import Method
    from preflab.model.roles import Roles
    from preflab.settings.training import LoraSettings


class Bench:
    """A job made ready: method, roles and rows.

    Attributes:
        method: with its settings.
        roles: all that the method needs, on one base.
        groups: rows; their prompts where responses are sampled.
        per_unit: optimiser steps of a unit.
    """

    def __init__(self, job: Job) -> None:
        from preflab.data.encoding import load_tokenizer
        from preflab.settings.training import LoraSettings, RolloutConfig

        self.job, self.bf16 = job, PRESETS[job.preset].bf16
        self.tokenizer = load_tokenizer(job.model)
        self.method = self._method()
        config = self.method.config
        sampled = isinstance(config, RolloutConfig)
        self.per_unit = config.steps_per_rollout(self.method.train) if sampled else 1
        self.method = self._method(max_steps=job.total * self.per_unit)
        self.roles = make_roles(self.method, job.model, LoraSettings(dtype="bfloat16" if self.bf16 else "auto"))
        self.groups = rows(job, self.method, len(self.tokenizer))

    def _method(self, **steps: int) -> Method:
        from preflab.method import registry
        from preflab.method.configured import Method, make_method

        job, what = self.job, self.job.what
        values = {**what.values, **job.values, "learning_rate": 1e-4, "lr_scheduler_type": "constant", **steps}
        values |= {"per_device_train_batch_size": job.batch, "gradient_accumulation_steps": what.accumulation}
        values |= {"logging_steps": 1, "bf16": self.bf16}
        if registry.load(what.method).needs.responses == "sampled":
            values["rollout_prompts"] = job.batch * what.accumulation
        method = make_method(what.rival or "" if job.side == "trl" else what.method, values)
        if what.cached and method.algorithm.kind == "trainer":
            return Method(method.name, precomputing(type(method.algorithm)), method.config, method.train)
        return method

    def train(self) -> Result:
        """Train, and say what it cost."""
        from benchmarks.clock import Clock

        clock = Clock()
        with tempfile.TemporaryDirectory() as folder, clock.installed():
            record = self.run(Path(folder))
            lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
        seconds = clock.seconds(self.job.warm_up * self.per_unit)
        tokens_per_second = record.tokens / record.steps / seconds
        names = ("response_length", "ended", "entropy", "reward")
        first = {name: lines[0][name] for name in names if name in lines[0]} if self.sampled else {}
        losses = [line["loss"] for line in lines]
        return Result(seconds * self.per_unit, tokens_per_second, record.peak_memory_bytes, losses, first)

    @property
    def sampled(self) -> bool:
        """Whether responses are drawn from the policy."""
        return bool(self.method.needs.responses == "sampled")

    def run(self, folder: Path) -> Any:
        """Train in a folder; return the trainer's record."""
        from preflab.training.task import Task
        from preflab.training.trainer import run_training

        method, groups, train = self.method, self.groups, self.method.train
        algorithm: Any = method.algorithm
        if algorithm.kind == "trainer":
            prompts = [group.prompt_ids for group in groups] if self.sampled else []
            given = [] if self.sampled else groups
            limit = self.job.response
            return algorithm.fit(Task(self.roles, given, train, self.tokenizer, folder, 0, method.name, prompts, limit))
        return run_training(self.roles, algorithm, self.source(), train, folder, seed=0, title=method.name)

    def source(self) -> Any:
        """Return the native source of batches."""
        from preflab.sampling.sampler import TransformersSampler
        from preflab.training.offline import OfflineSource
        from preflab.training.reference import ReferenceLogps
        from preflab.training.rollouts import RolloutSource

        method, roles, pad = self.method, self.roles, self.tokenizer.pad_token_id
        if self.sampled:
            algorithm: Any = method.algorithm
            sampler = TransformersSampler(self.tokenizer.eos_token_id, pad, self.job.response)
            prompts = [group.prompt_ids for group in self.groups]
            return RolloutSource(algorithm, method.needs, roles, sampler, prompts, method.train, 0)
        cached = self.job.what.cached
        reference = ReferenceLogps.compute(roles, self.groups, pad, "reference") if cached else None
        return OfflineSource(
            self.groups, method.train, pad, 0, reference=reference, algorithm=method.algorithm, roles=roles
        )


def make_roles(method: Method, model: str, settings: LoraSettings) -> Roles:
    """Return fresh roles for a method: a random reward model, and a value that starts as its copy."""
    from preflab.model.base import load_base
    from preflab.model.roles import Roles

    needs, roles = method.needs, Roles(load_base(model, settings), settings)
    if needs.uses("reward"):
        roles.add("reward")
    if needs.joint:
        roles.join_value()
    elif needs.uses("value"):
        roles.clone("reward", "value")
    roles.learn(())
    return roles


def rows(job: Job, method: Method, vocabulary: int) -> list[EncodedGroup]:
    """Return the rows of a job; every rollout has the same prompts, so that their order does not matter."""
    count = method.train.optimiser_batch * (1 if method.needs.responses == "sampled" else 4)
    k = 1 if method.needs.responses == "single" else job.k or job.what.k
    groups = make_groups(count, job.prompt, job.response, k, vocabulary=vocabulary)
    if method.needs.responses == "single":
        groups = [group._replace(feedback={"desirable": float(i % 2)}) for i, group in enumerate(groups)]
    return groups


def precomputing(algorithm: Any) -> Any:
    """Return a method backed by TRL whose trainer computes the reference's log-probabilities when it is made."""
    fields = algorithm.backing.fields

    class Precomputing(algorithm):  # type: ignore[misc]
        backing = dataclasses.replace(
            algorithm.backing, fields=lambda config, task: {**fields(config, task), "precompute_ref_log_probs": True}
        )

    return Precomputing


def main() -> None:
    """Run the job given as JSON and print its result as JSON."""
    job = Job(**json.loads(sys.argv[1]))
    print(json.dumps(Bench(job).train()._asdict()))


if __name__ == "__main__":
    main()
