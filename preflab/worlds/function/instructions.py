"""Instructions that an instruct model writes in its user's place, where nobody gives prompts."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING

from preflab.data.encoding import Encoder
from preflab.data.splits import normalised
from preflab.errors import UserError
from preflab.progress import progress
from preflab.worlds import WorldConfig
from preflab.worlds.function.samples import (
    OPENING_TRIES,
    PAIRS_PER_PROMPT,
    SAMPLES_FILE,
    SEQUENCES_AT_ONCE,
    decode,
    drawing,
    key_of,
    sample,
)

if TYPE_CHECKING:
    from preflab.model.roles import Roles

logger = logging.getLogger(__name__)

INSTRUCTION_TOKENS = 64
"""Longer instructions are left out: few are, and those mostly of a model that has lost its thread."""


def cached_instructions(config: WorldConfig, cache: Path, encoder: Encoder, opening: str) -> list[str]:
    """Return what an instruct model itself writes in a user's place, each once; drawn, or kept from an earlier run.

    Its training has made it a model of its users too: it goes on from the opening of their turn with an instruction
    such as it has seen answered (Magpie, arXiv 2406.08464).

    Args:
        config: names the model, and how many pairs are wanted.
        cache: folder that keeps them.
        encoder: reads the opening.
        opening: all that the chat template writes before a user's first words.

    Raises:
        UserError: if there are no two different ones.
    """
    from preflab.disk.cached import cached_folder
    from preflab.disk.files import read_jsonl, write_jsonl

    def make(folder: Path) -> None:
        drawn = drawing(config, lambda roles, wanted: _instructions(roles, encoder, opening, wanted, config.data_seed))
        folder.mkdir()
        write_jsonl(folder / SAMPLES_FILE, [{"prompt": text} for text in drawn])

    folder = cached_folder(cache / f"instructions-{key_of(config, encoder, [opening])}", make)
    return [row["prompt"] for row in read_jsonl(folder / SAMPLES_FILE)]


def _instructions(roles: Roles, encoder: Encoder, opening: str, pairs: int, seed: int) -> list[str]:
    """Sample what a user may ask; what is cut off, empty, or opens another turn is left out."""
    wanted, start = math.ceil(pairs / PAIRS_PER_PROMPT), encoder.prompt(opening)
    longest = min(INSTRUCTION_TOKENS, encoder.max_prompt_tokens - len(start))
    special, found = set(encoder.tokenizer.all_special_ids), dict[str, str]()
    with progress("sampling instructions (once)", wanted, "prompt") as task:
        for attempt in range(OPENING_TRIES):
            starts = [start] * min(SEQUENCES_AT_ONCE, 2 * (wanted - len(found)))
            samples = sample(roles, encoder, starts, 1, max(2, longest), f"instructions {seed} {attempt}")
            rows = zip(
                samples.batch.response_ids[:, 0], samples.batch.response_mask[:, 0], samples.ended[:, 0], strict=True
            )
            for ids, mask, ended in rows:
                said = ids[mask].tolist()[:-1]
                text = decode(encoder, said).strip()
                if ended and text and not special & set(said) and len(found) < wanted:
                    found.setdefault(normalised(text), text)
            task.reach(len(found))
            if len(found) == wanted:
                break
    if len(found) < 2:
        raise UserError("the model writes no two different instructions of a user; give prompts in a file: --prompts")
    if len(found) < wanted:
        logger.warning("only %d different instructions of %d wanted were sampled", len(found), wanted)
    return list(found.values())
