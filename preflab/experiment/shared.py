"""What the processes of a launcher can share, looked at before any of them waits for another."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from preflab import ranks
from preflab.errors import UserError
from preflab.method.configured import Method
from preflab.settings.training import LoraSettings, RolloutConfig

logger = logging.getLogger(__name__)

MEETING = ("RANK", "MASTER_ADDR", "MASTER_PORT")
ENGINES = {"ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_FSDP": "FSDP"}


def check_launcher() -> None:
    """Refuse a launcher that says of several processes and not how they meet, or wants an engine that wraps our layers.

    Raises:
        UserError: saying what to do.
    """
    if ranks.ranks() == 1:
        return
    if missing := [name for name in MEETING if name not in os.environ]:
        raise UserError(
            f"WORLD_SIZE is {ranks.ranks()}, and {missing[0]} is not set: processes that cannot meet would each make "
            "the whole run; start it with torchrun or accelerate launch, or unset WORLD_SIZE"
        )
    for variable, engine in ENGINES.items():
        if os.environ.get(variable) == "true":
            raise UserError(
                f"accelerate is set to {engine}, which would wrap layers that are run by hand; choose distributed_type "
                "MULTI_GPU (docs/processes.md), and --METHOD.shard-base for a base that is too large for one GPU"
            )


def check_shared(lora: LoraSettings, methods: Sequence[Method]) -> None:
    """Refuse methods that several processes cannot train together; say so where one process has nothing to share.

    Raises:
        UserError: naming the method and what to change.
    """
    many = ranks.ranks()
    for method in methods:
        train = method.train
        if train.shard_base and lora.load_in != "none":
            raise UserError(f"{method.name}: shard_base cuts no base in bits; set load_in to none, or leave it out")
        if asked := sorted({"deepspeed", "fsdp", "fsdp_config"} & train.extra.keys()):
            raise UserError(
                f"{method.name}: extra.{asked[0]} would wrap layers that are run by hand; leave it out (shard_base "
                "cuts a base that is too large for one GPU)"
            )
        if train.shard_base and many == 1:
            logger.warning("%s: shard_base has nobody to share the base with: there is one process", method.name)
        if many > 1:
            _check(method, many)


def _check(method: Method, many: int) -> None:
    kind, config, train = method.algorithm.kind, method.config, method.train
    if kind == "trainer":
        raise UserError(
            f"{method.name}: {many} processes share preflab's own loop, and this method brings a trainer of its own; "
            "leave it out, or start with python"
        )
    if kind == "loss" and train.optimiser_batch % many:
        nearest = many * max(1, round(train.optimiser_batch / many))
        raise UserError(
            f"{method.name}: {many} processes cannot share {train.batch_in_words} evenly; set train_batch_size to "
            f"{nearest}"
        )
    if isinstance(config, RolloutConfig) and config.sampler == "vllm":
        raise UserError(
            f"{method.name}: vLLM in the processes of a launcher would join their process group; set sampler to "
            "transformers, or start with python"
        )
