"""Micro-batches that the CPU's memory is expected to hold: where it runs out, the system ends a process unasked."""

from __future__ import annotations

import logging

from preflab.method.contract import Needs
from preflab.model.roles import Roles
from preflab.planning.footprint import Sketch, free_memory
from preflab.training.sources import Source

logger = logging.getLogger(__name__)

MARGIN = 1.15
"""What training takes may be so many times what is expected (`python -m benchmarks.plan`)."""

SMALL = 50_000_000
"""Weights of a model for which nobody would wait to hear that it fits."""


def foresee(source: Source, roles: Roles, needs: Needs, *, bf16: bool) -> None:
    """Tighten what the settings leave open until a source's heaviest micro-batch is expected to fit the CPU's memory.

    Where it is not expected to whatever they leave open, or they leave nothing, a line says so.

    An accelerator says that its memory has run out, and the loop then asks for less; nothing is foreseen for one.
    """
    fitting, free = source.fitting, free_memory("cpu")
    if roles.device.type != "cpu" or free is None:
        return
    if not fitting.is_open and sum(weight.numel() for weight in roles.parameters()) < SMALL:
        return
    sketch, changed = Sketch(roles.model.config, roles.settings, "cpu"), None
    while True:
        try:
            found = sketch.footprint(source.heaviest(fitting.size), needs, checkpointing=fitting.recomputes, bf16=bf16)
        except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:  # of another form, or others' code
            logger.warning(
                "what training takes cannot be foreseen (%s); if memory runs out, set per_device_train_batch_size",
                str(error).partition("\n")[0],
            )
            return
        wanted = int(MARGIN * (found.gradients + found.optimiser + found.passes))
        if wanted <= free:
            break
        tightened = fitting.tighten()
        if tightened is None:
            logger.warning("training will take some %s beside the weights, and %s are free", _gib(wanted), _gib(free))
            return
        changed = tightened
    if changed:
        logger.warning("%s are free: %s", _gib(free), changed)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
