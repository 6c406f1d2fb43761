"""The run folder and the world, opened: what a run needs at its end is looked at before anything is trained."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from preflab import ranks
from preflab.disk.guest import GuestRun
from preflab.disk.stages import Run, open_run
from preflab.endpoint.wire import Wire
from preflab.errors import UserError, crash
from preflab.experiment.settings import RunConfig
from preflab.experiment.shared import check_launcher, check_shared
from preflab.method.configured import Method
from preflab.progress import progress
from preflab.rewards import wanted_columns
from preflab.rewards.specification import ENDPOINT
from preflab.settings.training import LoraSettings, RolloutConfig
from preflab.worlds import WorldConfig

if TYPE_CHECKING:
    from preflab.experiment.experiment import Experiment

logger = logging.getLogger(__name__)

VALIDATION = 0.1
"""Share of the training prompts set aside where evaluations during training are asked for."""

FEWEST = 2
"""Rows that a mean with an interval takes."""

WHY = {True: "figures with intervals", False: "differences that could be significant by their signs"}
"""What a number of rows is for, by whether it is `FEWEST`."""

LITTLE_SPACE = 200 * 2**20  # bytes


def open_experiment(
    settings: RunConfig,
    world: WorldConfig,
    lora: LoraSettings,
    methods: Sequence[Method] = (),
    *,
    judged: Mapping[str, int] | None = None,
    tuned: bool = False,
    joined: bool = False,
) -> Experiment:
    """Open the run folder and the world; from here on, heavy work.

    What the run needs at its end is checked here. A run folder that this call made is removed where it ends in a
    mistake.

    Args:
        settings: where the run is kept.
        world: which world.
        lora: adapters of every role.
        methods: what will be trained; their settings are tried on the libraries first.
        judged: splits of the world that figures will be means over, each with the fewest rows it takes.
        tuned: whether settings will be chosen on training rows set aside.
        joined: whether another process holds the run, and has looked at all that.

    Raises:
        UserError: for anything that could not finish.
    """
    # TRL reports usage statistics by default; nothing is sent from here.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    check_launcher()
    check_shared(lora, methods)
    check_engine(lora, methods)
    check_reward(world)
    world = with_rows_aside(world, methods, tuned=tuned)
    # A folder that cannot be used is answered before the seconds that importing torch takes.
    folder = Path(settings.output)
    if joined:
        return _open(GuestRun(folder), settings, world, lora, methods)
    made = ranks.first() and not folder.exists()
    ranks.start()
    run = open_run(folder)
    ranks.barrier()
    crash.log_in(folder)
    try:
        check_results(folder)
        experiment = _open(run, settings, world, lora, methods)
        for split, fewest in (judged or {}).items():
            check_split(experiment, split, fewest)
        return experiment
    except UserError:
        if made and not any(run.stages.iterdir()):
            shutil.rmtree(folder)
        raise


def check_engine(lora: LoraSettings, methods: Sequence[Method]) -> None:
    """Refuse an engine that would sample another base than is scored.

    Raises:
        UserError: naming the method and what to change.
    """
    for method in methods:
        if lora.load_in != "none" and _draws_with_vllm(method):
            raise UserError(
                f"{method.name}: vLLM would sample the base as it lies there, and load_in {lora.load_in} scores "
                "another; set sampler to transformers, or load_in to none"
            )


def _draws_with_vllm(method: Method) -> bool:
    return isinstance(method.config, RolloutConfig) and method.config.sampler == "vllm"


def check_reward(world: WorldConfig) -> None:
    """Refuse a reward of one's own that cannot be imported, or asked, before the libraries are loaded.

    Raises:
        UserError: naming it.
    """
    wanted_columns(world.reward)
    if any(part.source == ENDPOINT for part in world.reward_parts):
        Wire(world.endpoint())


def with_rows_aside(world: WorldConfig, methods: Sequence[Method], *, tuned: bool = False) -> WorldConfig:
    """Set training rows aside where a method is evaluated on the way, or tuned, unless it is said how many.

    Raises:
        UserError: if none are to be set aside, and a method asks for such evaluations.
    """
    looking = ["--tune"] * tuned + [method.name for method in methods if method.train.eval_steps]
    if looking and world.validation_fraction is None:
        return dataclasses.replace(world, validation_fraction=VALIDATION)
    if looking and not world.validation_fraction:
        raise UserError(
            f"{looking[0]} looks at training rows set aside, and validation_fraction is 0; give it a share, such as "
            f"{VALIDATION}"
        )
    if world.validation_fraction and not looking:
        logger.warning("validation_fraction sets rows aside, and neither --tune nor eval_steps looks at them")
    return world


def _open(
    run: Run, settings: RunConfig, world: WorldConfig, lora: LoraSettings, methods: Sequence[Method]
) -> Experiment:
    quiet_imports()
    with progress("loading the libraries"):
        import torch

        from preflab.experiment.experiment import Experiment
        from preflab.sampling.vllm_engine import check_base
        from preflab.training.rehearsal import rehearse

    if settings.threads:
        torch.set_num_threads(settings.threads)
    quiet_libraries()
    for method in methods:
        rehearse(method)
    with progress(f"opening the {world.kind} world"):
        experiment = Experiment(run, world, lora, Path(settings.cache))
    if any(map(_draws_with_vllm, methods)):
        check_base(experiment.world.model, world.trust_remote_code)
    return experiment


def check_results(folder: Path) -> None:
    """Refuse a run folder in which the results could not be written at the end; say so where the disk is nearly full.

    Raises:
        UserError: naming what is in the way.
    """
    for name in ("manifest.json", "comparison.json", "evaluation.json"):
        if (folder / name).is_dir():
            raise UserError(f"{folder / name} is a folder, and a result goes there; remove it, or choose --output")
    for name in ("report", "evaluation"):
        if (folder / name).exists() and not (folder / name).is_dir():
            raise UserError(f"{folder / name} is no folder, and the report goes there; remove it, or choose --output")
    free = shutil.disk_usage(folder).free
    if free < LITTLE_SPACE:
        logger.warning("%d MiB are free on the disk of %s, which is little for a run", free >> 20, folder)


def check_split(experiment: Experiment, name: str, fewest: int) -> None:
    """Refuse a split that is too small for what is to be said of it.

    Raises:
        UserError: if fewer rows of it are within the token limits.
    """
    count = len(getattr(experiment, name))
    if count < fewest:
        what = {"eval_prompts": "held-out prompts", "heldout": "held-out pairs"}[name]
        raise UserError(
            f"{count} {what} are left within the token limits, and {WHY[fewest == FEWEST]} take at least {fewest}; "
            "give more data, or another --heldout-fraction, --heldout or --data-seed"
        )


def quiet_imports() -> None:
    """Leave out what libraries say as they are imported of what nothing here uses: widgets, a kernel for 4 bits."""
    warnings.filterwarnings("ignore", message="IProgress not found")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def quiet_libraries() -> None:
    """Leave to ourselves what a person reads: no bars, and no warnings of what nobody here can change."""
    import datasets
    import transformers

    # PEFT asks transformers for a name it is about to lose, TRL sets one; nobody here can do anything about it.
    warnings.filterwarnings("ignore", category=FutureWarning, message=".*gradient_checkpointing.*")
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    # What it says goes through our handler, which lets nothing steer the terminal.
    transformers.utils.logging.disable_default_handler()
    transformers.utils.logging.enable_propagation()
