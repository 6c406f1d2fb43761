"""The function world: any causal language model, and a gold reward that is a Python function.

Preferences are drawn from the model's own samples by Bradley-Terry, P(a preferred) = sigmoid(r(a) − r(b)),
as in controlled-sentiment experiments (DPO, arXiv 2305.18290, section 6). There are no demonstrations: the
model is its own reference.

Samples that hit the length limit. Responses of all methods end in the end token (see `Encoder`), and text
that broke off in the middle of a sentence must not be shown to a method as a finished answer. Stories of
some 200 tokens seldom end within a limit that a small machine can afford, so a broken-off sample is cut
after its last whole sentence, where stopping is natural, and what has no whole sentence is dropped; both
are counted in `World.facts`. The reward is read off the text as kept, so labels are true of what the
methods see. During evaluation the reward judges what the policy said, broken off or not, the same for all.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import math
import os
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any, NamedTuple

from preflab.data import Encoder, Row, fingerprint, load_tokenizer, normalised, read_rows, split_of, to_dataset
from preflab.errors import UserError
from preflab.worlds import GoldReward, World, WorldConfig

if TYPE_CHECKING:
    from preflab.roles import Roles
    from preflab.sampling import Samples

logger = logging.getLogger(__name__)

FUNCTION_VERSION = 1
"""Part of the cache's key: raise it when the same settings would give other samples."""

PROMPTS, QUICK_PROMPTS = 1500, 300
OPENING_TOKENS = (4, 12)
OPENING_TRIES = 8
"""Give up looking for new openings after this many samples for each one asked for: models repeat themselves."""

MAX_PAIRS_PER_PROMPT = 16
SEQUENCES_AT_ONCE = 512
SAMPLES_FILE = "samples.jsonl"

RewardFunction = Callable[[str, str], float]

SENTENCE_END = re.compile(r"[.!?…][\"'”’)\]]*(?=\s|$)|[。！？][」』”]*")


class Sample(NamedTuple):
    """One sampled response: its text as it follows the prompt, and whether the model ended it itself."""

    text: str
    ended: bool


Drawn = list[tuple[str, list[Sample]]]


def build(config: WorldConfig, cache: Path) -> World:
    """Sample prompts and responses from the model, label pairs with the reward, and split by prompt.

    A pure function of the config, the model and the reward, up to floating-point rounding of the
    machine; all labels are drawn anew each time, the samples are kept.

    Args:
        config: ``model`` and ``reward``; ``prompts`` may name a file, else openings are sampled.
        cache: folder that keeps the sampled texts.

    Raises:
        UserError: where the reward, the prompts or the model cannot be used, or a split would be empty.
    """
    assert config.model, "WorldConfig sees to model and reward"
    assert config.reward
    # 1. Everything a person may have got wrong, before anything is loaded.
    _refuse(config)
    gold = gold_reward(config.reward)
    given = _read_prompts(config.prompts) if config.prompts else None
    tokenizer = load_tokenizer(config.model, config.trust_remote_code)
    _check_context(config)
    encoder = Encoder(tokenizer, config.max_prompt_tokens, config.max_response_tokens)
    # 2. Sample, or read what an earlier run sampled.
    counts: Counter[str] = Counter()
    prompts = _fitting(given, encoder, config, counts) if given else None
    drawn = _cached(config, cache, prompts, lambda: _draw(config, encoder, prompts))
    # 3. Make honest texts of the samples, label them, split them.
    rows = _label(drawn, gold, config.data_seed, counts)
    return _world(config, rows, drawn, gold, counts)


# 1. The reward


def gold_reward(place: str) -> GoldReward:
    """Import a reward function, try it, and return it for whole lists of texts.

    White space around a response is not part of it, here as in the evaluation.

    Args:
        place: ``package.module:function`` or ``path/to/file.py:function``.

    Raises:
        UserError: if it cannot be imported, is not a function of prompt and response, fails, gives
            something other than a finite number, or two numbers for the same texts.
    """
    function = _import_reward(place)

    def gold(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        return [_judge(function, place, p, r.strip()) for p, r in zip(prompts, responses, strict=True)]

    # Policies may say nothing at all, so the empty response is tried too.
    examples = ("Once upon a time", "Once upon a time"), ("there was a happy dog. He had a big ball.", "")
    if gold(*examples) != gold(*examples):
        raise UserError(
            f"reward {place!r} gives two different values for the same texts; make it deterministic, or labels and "
            "evaluation could not be repeated"
        )
    return gold


def _import_reward(place: str) -> RewardFunction:
    from preflab.registry import import_object

    try:
        function = import_object(place)
    except UserError:
        raise
    except Exception as error:  # the user's own module may raise anything
        raise UserError(f"reward {place!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(function) or inspect.isclass(function):
        raise UserError(f"reward {place!r} is no function; it must be one: reward(prompt, response) -> float")
    try:
        inspect.signature(function).bind("prompt", "response")
    except TypeError:
        raise UserError(
            f"reward {place!r} has the arguments {inspect.signature(function)}; it must take two texts, "
            "(prompt, response)"
        ) from None
    except ValueError:  # some built-in functions do not tell their arguments; calling them will
        pass
    return function  # type: ignore[no-any-return]


def _judge(function: RewardFunction, place: str, prompt: str, response: str) -> float:
    def refuse(what: str) -> UserError:
        return UserError(f"reward {place!r} {what}, for prompt {_short(prompt)} and response {_short(response)}")

    try:
        value = function(prompt, response)
    except Exception as error:
        raise refuse(f"raised {type(error).__name__}: {error}") from error
    if isinstance(value, (str, bytes)):
        raise refuse(f"returned {_short(repr(value))}, not a number")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise refuse(f"returned {_short(repr(value))}, not a number") from None
    if not math.isfinite(number):
        raise refuse(f"returned {number}; it must be finite")
    return number


def _short(text: str, limit: int = 60) -> str:
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")


def _source_of(place: str) -> str:
    """Return a hash of the function's source where Python can show it, else its place."""
    function = _import_reward(place)
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        source = f"{place} {getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}"
    return hashlib.sha256(source.encode()).hexdigest()[:16]


# 2. Prompts and samples


def _refuse(config: WorldConfig) -> None:
    """Refuse options that mean nothing here rather than ignore them."""
    for name in ("dataset", "heldout", "chat_template"):
        if getattr(config, name) is not None:
            raise UserError(f"the function world samples its own data and takes no {name}; drop it or choose --world")


def _check_context(config: WorldConfig) -> None:
    from preflab.worlds.real import _check_context as check

    check(config)


def _read_prompts(name: str) -> list[str]:
    """Read prompts from a text file (one a line) or a data file with a field ``prompt``; each once."""
    path = Path(name).expanduser()
    if path.suffix == ".txt":
        try:
            found = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"prompt file {path} cannot be read: {error}") from None
    else:
        rows = read_rows(name)
        wrong = [n for n, row in rows if not isinstance(row.get("prompt"), str)]
        if wrong:
            raise UserError(
                f"prompt file {path}: row {wrong[0]} (and {len(wrong) - 1} more) has no text in the field 'prompt'"
            )
        found = [row["prompt"] for _, row in rows]
    # A space at the end would become a token of its own and set the model off its usual track.
    unique = {normalised(text): text.rstrip() for text in reversed(found) if text.strip()}
    if len(unique) < 2:
        raise UserError(f"prompt file {path} holds {len(unique)} different prompts; a comparison needs at least two")
    return list(reversed(unique.values()))


def _fitting(given: list[str], encoder: Encoder, config: WorldConfig, counts: Counter[str]) -> list[str]:
    """Drop prompts over the token limit; keep at most as many as pairs are wanted, drawn by seed."""
    groups, dropped = encoder.encode_prompts([{"prompt": text} for text in given])
    counts["prompts too long"] = dropped["prompt too long"]
    kept = [given[group.row] for group in groups]
    wanted = _wanted(config)
    if len(kept) > wanted:
        kept = [kept[i] for i in sorted(random.Random(config.data_seed).sample(range(len(kept)), wanted))]
    return kept


def _wanted(config: WorldConfig) -> int:
    """Return how many pairs are wanted, held-out ones included."""
    if config.quick:
        return min(QUICK_PROMPTS, config.max_pairs or QUICK_PROMPTS)
    return config.max_pairs or PROMPTS


def _cached(config: WorldConfig, cache: Path, prompts: list[str] | None, draw: Callable[[], Drawn]) -> Drawn:
    """Return the samples of an earlier run with the same model and settings, or draw and keep them.

    The reward is no part of the key: no sample depends on it, and labels are never kept, so that none can be
    older than the function that gave them.
    """
    from filelock import FileLock

    from preflab.runs import read_jsonl, write_jsonl

    folder = cache / f"function-{_key(config, prompts)}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(str(cache / f".{folder.name}.lock")):
        if not folder.is_dir():
            unfinished = cache / f".{folder.name}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)  # only a killed build leaves one: we hold the lock
            drawn = draw()
            unfinished.mkdir()
            write_jsonl(unfinished / SAMPLES_FILE, [{"prompt": p, "responses": s} for p, s in drawn])
            os.replace(unfinished, folder)
        rows = read_jsonl(folder / SAMPLES_FILE)
    return [(row["prompt"], [Sample(*sample) for sample in row["responses"]]) for row in rows]


def _key(config: WorldConfig, prompts: list[str] | None) -> str:
    import torch
    import transformers

    content = {
        "version": [FUNCTION_VERSION, torch.__version__, transformers.__version__, torch.cuda.is_available()],
        "model": _model_identity(str(config.model), config.trust_remote_code),
        "prompts": prompts,
        "wanted": _wanted(config),
        "limits": [config.max_prompt_tokens, config.max_response_tokens, *OPENING_TOKENS, SEQUENCES_AT_ONCE],
        "seed": config.data_seed,
    }
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _model_identity(name: str, trust_remote_code: bool) -> list[Any]:
    """Return what changes with the weights: the hub's commit, or path, sizes and times of local files."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        files = sorted(f for f in folder.iterdir() if f.is_file())
        return [str(folder.resolve()), *([f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files)]
    from transformers import AutoConfig

    return [name, getattr(AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code), "_commit_hash", None)]


def _draw(config: WorldConfig, encoder: Encoder, prompts: list[str] | None) -> Drawn:
    """Load the model; sample prompts unless they are given, and an even number of responses to each."""
    import torch

    from preflab.roles import Roles, load_base
    from preflab.seeds import seeded
    from preflab.settings import LoraSettings

    wanted = _wanted(config)
    base = load_base(str(config.model), LoraSettings(), trust_remote_code=config.trust_remote_code)
    # A fresh policy adapter changes nothing: this samples from the bare model, by the sampler of all rollouts.
    with seeded(config.data_seed, "function world"), torch.no_grad():
        roles = Roles(base, LoraSettings())
        prompts = prompts or _openings(roles, encoder, wanted, config.data_seed)
        pairs = max(1, min(MAX_PAIRS_PER_PROMPT, wanted // len(prompts)))
        return _responses(roles, encoder, prompts, 2 * pairs, config.data_seed)


def _openings(roles: Roles, encoder: Encoder, wanted: int, seed: int) -> list[str]:
    """Sample texts from nothing and keep their first few tokens, cut back to whole words; each once."""
    from tqdm.auto import tqdm

    longest = min(OPENING_TOKENS[1], encoder.max_prompt_tokens - 1)
    found: dict[str, str] = {}
    rng = random.Random(f"function openings {seed}")
    with tqdm(total=wanted, desc="sampling openings (once)", unit="prompt") as bar:
        for attempt in range(math.ceil(OPENING_TRIES * wanted / SEQUENCES_AT_ONCE)):
            start = [encoder.prompt("")] * SEQUENCES_AT_ONCE
            samples = _sample(roles, encoder, start, 1, longest + 1, f"openings {seed} {attempt}")
            for ids, mask in zip(samples.batch.response_ids[:, 0], samples.batch.response_mask[:, 0], strict=True):
                text = _opening(encoder, ids[mask].tolist(), rng.randint(min(OPENING_TOKENS[0], longest), longest))
                if text and len(found) < wanted:
                    found.setdefault(normalised(text), text)
            bar.update(len(found) - bar.n)
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
    text, longer = _decode(encoder, ids[:length]), _decode(encoder, ids[: length + 1])
    if not longer.startswith(text):  # the cut went through a character
        return None
    if longer[len(text) :][:1].strip():  # the next token goes on with the same word
        text = re.sub(r"\S*\Z", "", text)
    text = text.rstrip()
    return text if text.strip() and _decode(encoder, encoder.prompt(text)).strip() == text.strip() else None


def _responses(roles: Roles, encoder: Encoder, prompts: list[str], k: int, seed: int) -> Drawn:
    from tqdm.auto import tqdm

    size = max(1, SEQUENCES_AT_ONCE // k)
    drawn: Drawn = []
    with tqdm(total=len(prompts), desc="sampling responses (once)", unit="prompt") as bar:
        for at in range(0, len(prompts), size):
            part = prompts[at : at + size]
            ids = [encoder.prompt(text) for text in part]
            samples = _sample(roles, encoder, ids, k, encoder.max_response_tokens, f"responses {seed} {at}")
            drawn += zip(part, _texts(encoder, ids, samples), strict=True)
            bar.update(len(part))
    return drawn


def _sample(roles: Roles, encoder: Encoder, prompts: list[list[int]], k: int, length: int, purpose: str) -> Samples:
    from preflab.sampling import TransformersSampler
    from preflab.seeds import derive

    sampler = TransformersSampler(encoder.eos, int(encoder.tokenizer.pad_token_id), length, SEQUENCES_AT_ONCE)
    return sampler(roles, "policy", prompts, k=k, temperature=1.0, seed=derive(0, "function", purpose))


def _texts(encoder: Encoder, prompts: list[list[int]], samples: Samples) -> Iterator[list[Sample]]:
    """Yield each prompt's responses as text."""
    ends, batch = _end_ids(encoder), samples.batch
    for prompt, rows, masks in zip(prompts, batch.response_ids, batch.response_mask, strict=True):
        texts = []
        for row, mask in zip(rows, masks, strict=True):
            ids = row[mask].tolist()
            stop = next((i for i, token in enumerate(ids) if token in ends), None)
            # Decoded with its prompt, since a first token on its own may lose the space before it.
            before, whole = _decode(encoder, prompt), _decode(encoder, prompt + ids[:stop])
            text = whole[len(before) :] if whole.startswith(before) else _decode(encoder, ids[:stop])
            texts.append(Sample(text, stop is not None))
        yield texts


def _end_ids(encoder: Encoder) -> set[int]:
    """Return the tokens that end a text: models trained on packed texts often say "start" in place of "end"."""
    return {encoder.eos} | ({encoder.tokenizer.bos_token_id} - {None})


def _decode(encoder: Encoder, ids: list[int]) -> str:
    return str(encoder.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


# 3. Texts, labels, splits


def finished(sample: Sample) -> str | None:
    """Return a response that may stop where it stops, or None.

    A sample that the model ended stays whole; one that hit the length limit is cut after its last whole
    sentence, and is None where it has none.
    """
    if sample.ended:
        return sample.text.rstrip() or None
    ends = [match.end() for match in SENTENCE_END.finditer(sample.text)]
    return sample.text[: ends[-1]] if ends else None


def _label(drawn: Drawn, gold: GoldReward, seed: int, counts: Counter[str]) -> list[Row]:
    """Return labelled pairs; what was lost, and why, goes into `counts`."""
    rows: list[Row] = []
    for prompt, samples in drawn:
        texts = [finished(sample) for sample in samples]
        for sample, text in zip(samples, texts, strict=True):
            counts["responses ended by the model"] += sample.ended
            counts["responses cut after a sentence"] += text is not None and not sample.ended
            counts["responses dropped: no whole sentence"] += text is None and not sample.ended
            counts["responses dropped: empty"] += text is None and sample.ended
        for n, (first, second) in enumerate(zip(texts[::2], texts[1::2], strict=True)):
            if first is None or second is None:
                counts["pairs dropped: a response is missing"] += 1
            elif normalised(first) == normalised(second):
                counts["pairs dropped: identical"] += 1
            else:
                rows.append(_pair(prompt, first, second, gold, random.Random(f"label {seed} {n} {prompt}")))
    return rows


def _pair(prompt: str, first: str, second: str, gold: GoldReward, rng: random.Random) -> Row:
    """Draw which response is preferred: sigmoid of the difference in reward."""
    one, other = gold([prompt, prompt], [first, second])
    if rng.random() >= _sigmoid(one - other):
        first, second, one, other = second, first, other, one
    # With the rewards among the columns, a changed reward changes the fingerprint of the data and so the
    # key of every stage, even if no label changed.
    return {"prompt": prompt, "chosen": first, "rejected": second, "chosen_reward": one, "rejected_reward": other}


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _world(config: WorldConfig, rows: list[Row], drawn: Drawn, gold: GoldReward, counts: Counter[str]) -> World:
    if not rows:
        raise UserError(f"no pair is left of the model's samples ({_listed(counts)}); raise --max-response-tokens")
    shares = {"heldout": config.heldout_fraction, "train": 1 - config.heldout_fraction}
    # Hashed as it counts for "the same prompt", so that two writings of one prompt cannot be torn apart.
    where = {p: split_of(normalised(p), config.data_seed, shares) for p, _ in drawn}
    parts = {name: [row for row in rows if where[row["prompt"]] == name] for name in shares}
    empty = [name for name, part in parts.items() if not part]
    if empty:
        raise UserError(
            f"too few pairs: none in {' and '.join(empty)} ({len(rows)} in all; {_listed(counts)}). Give more prompts, "
            "or another --heldout-fraction or --data-seed"
        )
    columns, nothing = ("prompt", "chosen", "rejected"), ("prompt", "response")
    world = World(
        name="function",
        model=str(config.model),
        demonstrations=to_dataset([], nothing),
        pairs=to_dataset(parts["train"], columns),
        heldout=to_dataset(parts["heldout"], columns),
        gold_pairs=to_dataset([], columns),
        # Only prompts of pairs: on-policy and offline methods then learn from the same ones.
        prompts=to_dataset(_prompts(parts["train"]), ("prompt",)),
        eval_prompts=to_dataset(_prompts(parts["heldout"]), ("prompt",)),
        gold=gold,
    )
    world.facts.update(_facts(config, world, rows, drawn, counts))
    logger.info("function world: %d pairs; %s", len(rows), _listed(counts))
    return world


def _prompts(rows: list[Row]) -> list[Row]:
    return [{"prompt": prompt} for prompt in dict.fromkeys(row["prompt"] for row in rows)]


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name}: {n}" for name, n in counts.items() if n)


def _facts(config: WorldConfig, world: World, rows: list[Row], drawn: Drawn, counts: Counter[str]) -> dict[str, Any]:
    """Return counts, fingerprints, label noise and the spread of the reward, JSON-ready."""
    assert world.gold is not None
    splits = ("pairs", "heldout", "prompts", "eval_prompts")
    gaps = [row["chosen_reward"] - row["rejected_reward"] for row in rows]
    decided = [gap for gap in gaps if gap != 0]
    kept = [row[name] for row in rows for name in ("chosen_reward", "rejected_reward")]
    raw = world.gold(*zip(*((p, s.text) for p, samples in drawn for s in samples), strict=True))
    return {
        "max_response_tokens": config.max_response_tokens,
        "reward": {"function": config.reward, "source": _source_of(str(config.reward))},
        "prompts": {"from": config.prompts or "openings of the model's own samples", "count": len(drawn)},
        "counts": dict(counts),
        "rows": {name: len(getattr(world, name)) for name in splits},
        "fingerprints": {name: fingerprint(getattr(world, name)) for name in splits},
        "label_agreement": fmean(gap > 0 for gap in decided) if decided else None,
        "label_agreement_expected": fmean(_sigmoid(abs(gap)) for gap in decided) if decided else None,
        "equal_rewards": len(gaps) - len(decided),
        "reward_mean": {"samples": fmean(raw), "pairs": fmean(kept)},
        "reward_std": {"samples": pstdev(raw), "pairs": pstdev(kept)},
        "notes": [
            "no demonstrations: the model is its own reference",
            "samples that hit the length limit are cut after their last whole sentence, or dropped without one",
            "the on-policy methods' prompts are those of the training pairs",
        ],
    }
