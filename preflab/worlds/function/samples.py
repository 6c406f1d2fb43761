"""What the function world draws from the model: prompts (openings) and responses; kept as texts."""

from __future__ import annotations

import json
import logging
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from preflab.data.encoding import Encoder
from preflab.data.splits import normalised
from preflab.disk.digests import digest
from preflab.errors import UserError
from preflab.progress import progress
from preflab.worlds import WorldConfig

if TYPE_CHECKING:
    from preflab.model.roles import Roles
    from preflab.sampling.sampler import Samples

logger = logging.getLogger(__name__)
T = TypeVar("T")

FUNCTION_VERSION = 1
"""Part of the cache's key: raise it when the same settings would give other samples."""

PAIRS, QUICK_PAIRS = 3000, 600
PAIRS_PER_PROMPT = 2
"""For sampled openings. A small model soon repeats its openings, and a second pair costs no new one."""

OPENING_TOKENS = (4, 12)
OPENING_TRIES = 8
"""Give up looking for new openings after this many samples for each one asked for: models repeat themselves."""

MAX_PAIRS_PER_PROMPT = 16
"""For prompts from a file, where few prompts make up for it with more pairs each."""

SEQUENCES_AT_ONCE = 512
SAMPLES_FILE = "samples.jsonl"


class Sample(NamedTuple):
    """One sampled response: its text as it follows the prompt, and whether the model ended it itself."""

    text: str
    ended: bool


Drawn = list[tuple[str, list[Sample]]]


def fitting_prompts(given: list[str], encoder: Encoder, config: WorldConfig, counts: Counter[str]) -> list[str]:
    """Drop prompts over the token limit; keep at most as many as pairs are wanted, drawn by seed."""
    groups, dropped = encoder.encode_prompts([{"prompt": text} for text in given])
    counts["prompts too long"] = dropped["prompt too long"]
    kept = [given[group.row] for group in groups]
    wanted = wanted_pairs(config)
    if len(kept) > wanted:
        kept = [kept[i] for i in sorted(random.Random(config.data_seed).sample(range(len(kept)), wanted))]
    return kept


def wanted_pairs(config: WorldConfig) -> int:
    """Return how many pairs are wanted, held-out ones included."""
    if config.quick:
        return min(QUICK_PAIRS, config.max_pairs or QUICK_PAIRS)
    return config.max_pairs or PAIRS


def cached_samples(config: WorldConfig, cache: Path, encoder: Encoder, prompts: list[str] | None) -> Drawn:
    """Return the samples of an earlier run with the same model and settings, or draw and keep them.

    The reward is no part of the key: no sample depends on it, and labels are never kept, so that none can be
    older than the function that gave them.
    """
    from preflab.disk.cached import cached_folder
    from preflab.disk.files import read_jsonl, write_jsonl

    def make(folder: Path) -> None:
        drawn = _draw(config, encoder, prompts)
        folder.mkdir()
        write_jsonl(folder / SAMPLES_FILE, [{"prompt": p, "responses": s} for p, s in drawn])

    folder = cached_folder(cache / f"function-{key_of(config, encoder, prompts)}", make)
    rows = read_jsonl(folder / SAMPLES_FILE)
    return [(row["prompt"], [Sample(*sample) for sample in row["responses"]]) for row in rows]


def key_of(config: WorldConfig, encoder: Encoder, prompts: list[str] | None) -> str:
    """Return a hash of all that decides what is drawn."""
    import torch
    import transformers

    content = {
        "version": [FUNCTION_VERSION, torch.__version__, transformers.__version__, torch.cuda.is_available()],
        "model": _model_identity(str(config.model), config.trust_remote_code),
        "prompts": prompts,
        "wanted": wanted_pairs(config),
        "ends": encoder.ends.ids,
        "limits": [config.max_prompt_tokens, config.max_response_tokens, *OPENING_TOKENS, SEQUENCES_AT_ONCE],
        "seed": config.data_seed,
        **({"chat": True} if encoder.chat else {}),
        **({"truncated": encoder.truncate} if encoder.truncate else {}),
    }
    return digest(json.dumps(content), 16)


def _model_identity(name: str, trust_remote_code: bool) -> list[Any]:
    """Return what changes with the weights: the hub's commit, or path, sizes and times of local files."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        files = sorted(f for f in folder.iterdir() if f.is_file())
        return [str(folder.resolve()), *([f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files)]
    from transformers import AutoConfig

    return [name, getattr(AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code), "_commit_hash", None)]


def _draw(config: WorldConfig, encoder: Encoder, prompts: list[str] | None) -> Drawn:
    """Sample prompts unless they are given, and an even number of responses to each."""

    def responses(roles: Roles, wanted: int) -> Drawn:
        asked = prompts or _openings(roles, encoder, math.ceil(wanted / PAIRS_PER_PROMPT), config.data_seed)
        pairs = max(1, min(MAX_PAIRS_PER_PROMPT, wanted // len(asked)))
        return _responses(roles, encoder, asked, 2 * pairs, config.data_seed)

    return drawing(config, responses)


def drawing(config: WorldConfig, draw: Callable[[Roles, int], T]) -> T:
    """Load the model, and let it draw something for as many pairs as are wanted."""
    import torch

    from preflab.model.base import load_base
    from preflab.model.roles import Roles
    from preflab.seeds import seeded
    from preflab.settings.training import LoraSettings

    base = load_base(str(config.model), LoraSettings(), trust_remote_code=config.trust_remote_code)
    # A fresh policy adapter changes nothing: this samples from the bare model, by the sampler of all rollouts.
    with seeded(config.data_seed, "function world"), torch.no_grad():
        return draw(Roles(base, LoraSettings()), wanted_pairs(config))


def _openings(roles: Roles, encoder: Encoder, wanted: int, seed: int) -> list[str]:
    """Sample texts from nothing and keep their first few tokens, cut back to whole words; each once."""
    longest = min(OPENING_TOKENS[1], encoder.max_prompt_tokens - 1)
    found: dict[str, str] = {}
    rng = random.Random(f"function openings {seed}")
    with progress("sampling openings (once)", wanted, "prompt") as task:
        for attempt in range(math.ceil(OPENING_TRIES * wanted / SEQUENCES_AT_ONCE)):
            start = [encoder.prompt("")] * SEQUENCES_AT_ONCE
            samples = sample(roles, encoder, start, 1, longest + 1, f"openings {seed} {attempt}")
            for ids, mask in zip(samples.batch.response_ids[:, 0], samples.batch.response_mask[:, 0], strict=True):
                text = _opening(encoder, ids[mask].tolist(), rng.randint(min(OPENING_TOKENS[0], longest), longest))
                if text and len(found) < wanted:
                    found.setdefault(normalised(text), text)
            task.reach(len(found))
            if len(found) == wanted:
                break
    if len(found) < 2:
        raise UserError("the model's samples give no two different openings; give prompts in a file: --prompts")
    if len(found) < wanted:
        logger.warning("the model repeats itself: only %d different openings of %d wanted", len(found), wanted)
    return list(found.values())


def _opening(encoder: Encoder, ids: list[int], length: int) -> str | None:
    """Return the first `length` tokens as text of whole words; None where that text says something else."""
    if len(ids) <= length or set(ids) & _end_ids(encoder):
        return None
    text, longer = decode(encoder, ids[:length]), decode(encoder, ids[: length + 1])
    if not longer.startswith(text):  # the cut went through a character
        return None
    if longer[len(text) :][:1].strip():  # the next token goes on with the same word
        text = re.sub(r"\S*\Z", "", text)
    text = text.rstrip()
    return text if text.strip() and decode(encoder, encoder.prompt(text)).strip() == text.strip() else None


def _responses(roles: Roles, encoder: Encoder, prompts: list[str], k: int, seed: int) -> Drawn:
    size = max(1, SEQUENCES_AT_ONCE // k)
    drawn: Drawn = []
    with progress("sampling responses (once)", len(prompts), "prompt") as task:
        for at in range(0, len(prompts), size):
            part = prompts[at : at + size]
            ids = [encoder.prompt(text) for text in part]
            samples = sample(roles, encoder, ids, k, encoder.max_response_tokens, f"responses {seed} {at}")
            drawn += zip(part, _texts(encoder, ids, samples), strict=True)
            task.advance(len(part))
    return drawn


def sample(roles: Roles, encoder: Encoder, prompts: list[list[int]], k: int, length: int, purpose: str) -> Samples:
    """Draw `k` responses of at most `length` tokens to each prompt, by a seed of this purpose."""
    from preflab.sampling.sampler import TransformersSampler
    from preflab.seeds import derive

    sampler = TransformersSampler(encoder.ends.ids, int(encoder.tokenizer.pad_token_id), length, SEQUENCES_AT_ONCE)
    return sampler(roles, "policy", prompts, k=k, temperature=1.0, seed=derive(0, "function", purpose))


def _texts(encoder: Encoder, prompts: list[list[int]], samples: Samples) -> Iterator[list[Sample]]:
    """Yield each prompt's responses as text."""
    ends, batch = _end_ids(encoder), samples.batch
    for prompt, rows, masks in zip(prompts, batch.response_ids, batch.response_mask, strict=True):
        texts = []
        for row, mask in zip(rows, masks, strict=True):
            ids = row[mask].tolist()
            stop = next((i for i, token in enumerate(ids) if token in ends), None)
            # A response that did not end gives up its last token: the end token needs the place. One that ended in a
            # word keeps it; what only says "end" is no text.
            ids = ids[: encoder.max_response_tokens - 1] if stop is None else ids[: stop + 1]
            # Decoded with its prompt, since a first token on its own may lose the space before it.
            before, whole = decode(encoder, prompt), decode(encoder, prompt + ids)
            text = whole[len(before) :] if whole.startswith(before) else decode(encoder, ids)
            texts.append(Sample(text, stop is not None))
        yield texts


def _end_ids(encoder: Encoder) -> set[int]:
    """Return the tokens that end a text: models trained on packed texts often say "start" in place of "end"."""
    return set(encoder.ends.ids) | ({encoder.tokenizer.bos_token_id} - {None})


def decode(encoder: Encoder, ids: list[int]) -> str:
    """Return tokens as text, without special ones."""
    return str(encoder.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
