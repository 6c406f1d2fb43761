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


def foresee(source: Source, roles: Roles, needs: Needs, *, bf16: bool) -> None:
    """Tighten what the settings leave open until a source's heaviest micro-batch is expected to fit the CPU's memory.

    An accelerator says that its memory has run out, and the loop then asks for less; nothing is foreseen for one.
    """
    fitting, free = source.fitting, free_memory("cpu")
    if not fitting.is_open or roles.device.type != "cpu" or free is None:
        return
    sketch, changed = Sketch(roles.model.config, roles.settings, "cpu"), None
    while True:
        try:
            found = sketch.footprint(source.heaviest(fitting.size), needs, checkpointing=fitting.recomputes, bf16=bf16)
        except NotImplementedError as error:  # layers of another form than the sketch can read
            logger.warning(
                "what training takes cannot be foreseen (%s); lower train_batch_size if memory runs out", error
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
