"""Preference data: read it, clean it, split it by prompt, and turn it into token ids.

Text becomes ids by one rule (`Encoder`), whoever asks, so that every method sees the same x and {y}.
Torch, datasets and transformers are imported where they are used: checking a config needs none.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import logging
import re
import statistics
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from preflab.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from preflab.interface import Batch

logger = logging.getLogger(__name__)

Row = dict[str, Any]
Rows = Iterable[Mapping[str, Any]]  # a Dataset, or a list of rows
Dropped = dict[str, int]

SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".parquet", ".csv")
UNREADABLE = "\0unreadable"  # marks a row that is no object; a NUL cannot be a column name anyone uses
ASSISTANT = "\n\nAssistant:"


# 1. Reading


def read_rows(source: str, split: str = "train") -> list[tuple[int, Row]]:
    """Read a local file (see `SUFFIXES`), a data folder or a hub data set, with 1-based row numbers.

    Row numbers are line numbers of JSON-lines files, spreadsheet rows of CSV files (the header is row
    1), and positions elsewhere. A line that is not a JSON object stays, marked, to be counted as bad.

    Raises:
        UserError: for a missing or unreadable file, an unknown suffix, or a hub that cannot be reached.
    """
    path = Path(source).expanduser()
    if path.is_file():
        try:
            return _read_file(path)
        except (OSError, EOFError, zlib.error, csv.Error, UnicodeDecodeError) as error:
            raise UserError(f"data file {path} cannot be read: {error}") from None
    if not path.is_dir() and (source.startswith((".", "/", "~")) or source.endswith(SUFFIXES)):
        raise UserError(f"data file {path} does not exist")
    return _read_hub(source, split)


def _read_file(path: Path) -> list[tuple[int, Row]]:
    name = path.name.lower()
    if name.endswith(".parquet"):
        import pyarrow
        import pyarrow.parquet

        try:
            return list(enumerate(pyarrow.parquet.read_table(path).to_pylist(), 1))
        except pyarrow.ArrowException as error:
            raise UserError(f"data file {path} is not readable parquet: {error}") from None
    if name.endswith(".csv"):
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(enumerate(csv.DictReader(file), 2))
    if not name.endswith(SUFFIXES):
        raise UserError(f"data file {path} has an unknown suffix; use one of {', '.join(SUFFIXES)}")
    content = gzip.decompress(path.read_bytes()) if name.endswith(".gz") else path.read_bytes()
    if content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):  # one JSON list, whatever the suffix says
        values = _json(content)
        if isinstance(values, list):
            return [(n, _object(value)) for n, value in enumerate(values, 1)]
        if name.endswith((".json", ".json.gz")):
            raise UserError(f"data file {path} starts like a JSON list but is not valid JSON")
    lines = enumerate(content.split(b"\n"), 1)
    return [(n, _object(_json(line))) for n, line in lines if line.strip()]


def _json(content: bytes) -> Any:
    try:
        return json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None


def _object(value: Any) -> Row:
    return value if isinstance(value, dict) else {UNREADABLE: "not JSON"}


def _read_hub(name: str, split: str) -> list[tuple[int, Row]]:
    import datasets

    try:
        return list(enumerate(map(dict, datasets.load_dataset(name, split=split)), 1))
    except Exception as error:  # the hub client raises many unrelated types, all of them a person's to mend
        raise UserError(
            f"data set {name!r} (split {split!r}) cannot be loaded: {type(error).__name__}: {error}. "
            f"Check name, split and network (HF_HUB_OFFLINE), or give a local file: {', '.join(SUFFIXES)}"
        ) from None


# 2. Cleaning


@dataclass(frozen=True)
class BadRows:
    """Unusable rows: reason to the row numbers it was given for."""

    reasons: dict[str, list[int]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """How many rows are bad."""
        return sum(map(len, self.reasons.values()))

    def summary(self, shown: int = 5) -> str:
        """Return one readable line, with the first `shown` row numbers of each reason."""
        parts = []
        for reason, numbers in sorted(self.reasons.items()):
            first = ", ".join(map(str, numbers[:shown])) + (", …" if len(numbers) > shown else "")
            parts.append(f"{reason}: {len(numbers)} (row{'s' if len(numbers) > 1 else ''} {first})")
        return "; ".join(parts) or "no bad rows"


class _RowError(Exception):
    """Why one row is unusable."""


def is_conversational(row: Mapping[str, Any]) -> bool:
    """Return whether a raw row holds lists of ``{role, content}`` messages rather than plain text."""
    responses = row.get("responses")
    values = [row.get(name) for name in ("prompt", "chosen", "rejected")]
    return any(isinstance(v, list) for v in [*values, *(responses if isinstance(responses, list) else [])])


def preference_rows(
    rows: Iterable[tuple[int, Row]],
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    bad_rows: Literal["drop", "refuse"] = "drop",
    use_group: bool = True,
    source: str = "the data",
) -> tuple[list[Row], BadRows]:
    """Bring preference data of any accepted format to text rows.

    Accepted are ``prompt, chosen, rejected``; ``chosen, rejected`` as whole dialogues; and ``prompt,
    responses`` (best first, or ordered by ``rank``, 0 best): each as text or as messages. Messages are
    written with the tokenizer's chat template, or as Human/Assistant text where it has none.

    Args:
        rows: numbered raw rows, as `read_rows` gives them.
        tokenizer: writes messages as text; None: always Human/Assistant text.
        bad_rows: drop and count unusable rows, or refuse the data.
        use_group: whether a ``group`` column decides which prompts belong together.
        source: what to call the data in messages.

    Returns:
        Rows with ``prompt``, ``chosen``, ``rejected``, ``group`` (hash of what must not be split) and,
        where the data has them, ``subset`` and ``responses`` (texts, best first); and the bad rows.

    Raises:
        UserError: if no usable row is left, or for any bad row with ``bad_rows="refuse"``.
    """
    clean: list[Row] = []
    bad: dict[str, list[int]] = {}
    plain = 0
    for number, row in rows:
        try:
            clean.append(_clean(row, tokenizer, use_group))
            plain += is_conversational(row)
        except _RowError as reason:
            bad.setdefault(str(reason), []).append(number)
    found = BadRows(bad)
    if not clean:
        raise UserError(
            f"{source} has no usable row: {found.summary()}. Preference data needs 'chosen' and 'rejected' "
            "(with 'prompt', or as whole dialogues), or 'prompt' and ranked 'responses'"
        )
    if bad and bad_rows == "refuse":
        raise UserError(f"{source} has bad rows: {found.summary()}. Mend them, or use --bad-rows drop")
    if plain and not (tokenizer and tokenizer.chat_template):
        logger.warning("no chat template: messages are written as Human/Assistant text (see --chat-template)")
    return clean, found


def _clean(row: Row, tokenizer: PreTrainedTokenizerBase | None, use_group: bool) -> Row:
    """Return one usable row, or raise `_RowError`."""
    if UNREADABLE in row:
        raise _RowError(row[UNREADABLE])
    prompt, responses = _explicit(row)
    for text in [prompt] if isinstance(prompt, str) else [m["content"] for m in prompt]:
        _check_text(text)
    if not (prompt.strip() if isinstance(prompt, str) else prompt):
        raise _RowError("empty prompt")
    for text in responses:
        _check_text(text)
        if not text.strip():
            raise _RowError("empty response")
    if responses[0].strip() == responses[-1].strip():
        raise _RowError("chosen equal to rejected")
    group = row.get("group") if use_group else None
    key = group_key(prompt) if group is None else normalised(str(group))
    group = hashlib.sha256(key.encode(errors="backslashreplace")).hexdigest()[:16]
    if not isinstance(prompt, str):
        prompt, responses = _render(prompt, responses, tokenizer)
    clean: Row = {"prompt": prompt, "chosen": responses[0], "rejected": responses[-1], "group": group}
    if row.get("subset") is not None:
        clean["subset"] = str(row["subset"]).encode(errors="backslashreplace").decode()
    if row.get("responses") is not None:
        clean["responses"] = responses
    return clean


def _check_text(text: Any) -> None:
    if not isinstance(text, str):
        raise _RowError("not text")
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate is legal JSON, but no tokenizer takes it
        raise _RowError("not text") from None


def _explicit(row: Row) -> tuple[Any, list[str]]:
    """Return the prompt (text or messages) and the responses' texts, best first."""
    if row.get("responses") is not None:
        prompt, responses = _field(row, "prompt"), _ranked(row)
    else:
        responses = [_field(row, "chosen"), _field(row, "rejected")]
        if row.get("prompt") is None:
            prompt, responses = _split_implicit(*responses)
        else:
            prompt = _field(row, "prompt")
    if isinstance(prompt, str) and isinstance(responses[0], list):
        # Common: the prompt as text, and again as the first turns of both dialogues.
        prompt = responses[0][:-1] or [{"role": "user", "content": prompt}]
    if isinstance(prompt, str):
        return prompt, responses
    return prompt, [_answer(prompt, response) for response in responses]


def _field(row: Row, name: str) -> Any:
    """Return a field that is text or a list of messages (then with role and content only)."""
    if row.get(name) is None:
        raise _RowError(f"missing field {name!r}")
    return _text_or_messages(row[name])


def _text_or_messages(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not all(isinstance(m, dict) for m in value):
        raise _RowError("not text")
    if not all(isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in value):
        raise _RowError("not text")
    return [{"role": m["role"], "content": m["content"]} for m in value]


def _ranked(row: Row) -> list[Any]:
    """Return ranked responses best first; ``rank`` (0 best) reorders them where it is given."""
    responses, rank = row["responses"], row.get("rank")
    if not isinstance(responses, list) or len(responses) < 2:
        raise _RowError("fewer than two responses")
    responses = [_text_or_messages(response) for response in responses]
    if rank is None:
        return responses
    if not isinstance(rank, list) or [type(r) in (int, float) for r in rank] != [True] * len(responses):
        raise _RowError("rank does not match responses")
    if min(rank) == max(rank):
        raise _RowError("chosen equal to rejected")
    return [responses[i] for i in sorted(range(len(rank)), key=rank.__getitem__)]


def _answer(prompt: list[dict[str, str]], response: Any) -> str:
    """Return the text of a response that may be text, one message, or prompt and message."""
    if isinstance(response, str):
        return response
    if response[: len(prompt)] == prompt:
        response = response[len(prompt) :]
    if not response:
        raise _RowError("empty response")
    if len(response) > 1 or response[0]["role"] != "assistant":
        raise _RowError("response is not one assistant turn")
    return str(response[0]["content"])


def _split_implicit(chosen: Any, rejected: Any) -> tuple[Any, list[Any]]:
    """Separate two whole dialogues into the prompt they share and their responses."""
    if type(chosen) is not type(rejected):
        raise _RowError("not text")
    if not chosen or not rejected:
        raise _RowError("empty response")
    if isinstance(chosen, list):
        from trl.data_utils import extract_prompt

        parts = extract_prompt({"chosen": chosen, "rejected": rejected})
        return parts["prompt"], [parts["chosen"], parts["rejected"]]
    if chosen == rejected:
        raise _RowError("chosen equal to rejected")
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    # Two answers that happen to start alike ("I think", "It's" and "It is") share more than the prompt,
    # and a bare common prefix may end inside a word, which no policy would ever be asked to go on from.
    # A dialogue says where the answer begins; other text is cut where its last shared word is whole.
    marker = chosen.rfind(ASSISTANT, 0, shared)
    if marker >= 0:
        cut = marker + len(ASSISTANT)
    else:
        word = re.search(r"(\n|[^\S\n]*)\S*\Z", chosen[:shared])
        assert word is not None
        cut = word.end(1) if word[1] == "\n" else word.start()
    return chosen[:cut], [chosen[cut:], rejected[cut:]]


def _render(
    prompt: list[dict[str, str]], responses: list[str], tokenizer: PreTrainedTokenizerBase | None
) -> tuple[str, list[str]]:
    """Write messages as text: a prompt that asks for an answer, and each answer as it goes on from there."""
    if tokenizer is None or not tokenizer.chat_template:
        names = {"user": "Human: ", "assistant": "Assistant: ", "system": ""}
        turns = [names.get(m["role"], m["role"].capitalize() + ": ") + m["content"].strip() for m in prompt]
        return "\n\n".join(turns) + ASSISTANT, [" " + response.strip() for response in responses]
    import jinja2

    eos, texts = str(tokenizer.eos_token), []
    try:
        before = str(tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True))
        for response in responses:
            turn = {"role": "assistant", "content": response}
            whole = str(tokenizer.apply_chat_template([*prompt, turn], tokenize=False))
            # Some templates rewrite earlier turns once an answer is there; then the bare answer must do.
            text = whole.removeprefix(before) if whole.startswith(before) else response
            end = text.find(eos)
            texts.append(text if end < 0 else text[: end + len(eos)])
    except jinja2.TemplateError as error:
        raise _RowError(f"refused by the chat template ({error})") from None
    return before, texts


# 3. Splitting


def normalised(text: str) -> str:
    """Return text as it counts for "the same prompt": case folded, white space collapsed."""
    return " ".join(text.casefold().split())


def group_key(prompt: str | list[dict[str, str]]) -> str:
    """Return what prompts of one dialogue share: the normalised first human turn, else all of it."""
    if not isinstance(prompt, str):
        users = [m["content"] for m in prompt if m["role"] == "user"]
        return normalised(users[0] if users else prompt[0]["content"])
    turn = re.match(r"\s*Human:(.*?)(?:\n\s*(?:Assistant|Human):|\Z)", prompt, re.DOTALL)
    return normalised(turn[1] if turn and turn[1].strip() else prompt)


def split_of(key: str, seed: int, fractions: Mapping[str, float]) -> str:
    """Return the split of a group; it depends on nothing but the arguments, so more data moves no group.

    Args:
        key: the group's name; all rows of a group land in one split.
        seed: another seed gives other splits.
        fractions: split name to share, in a fixed order; shares sum to 1.
    """
    digest = hashlib.sha256(f"{seed}\n{key}".encode()).digest()
    position, edge = int.from_bytes(digest[:8], "big") / 2**64, 0.0
    for name, share in fractions.items():
        edge += share
        if position < edge:
            return name
    return next(reversed(list(fractions)))  # only rounding of the sum leads here


def check_leak(train: Iterable[Row], heldout: Iterable[Row]) -> tuple[list[Row], int]:
    """Drop held-out rows whose prompt or group is in `train`; return the rest and how many were dropped."""
    seen = {key for row in train for key in (normalised(row["prompt"]), row["group"])}
    rows = list(heldout)
    kept = [row for row in rows if normalised(row["prompt"]) not in seen and row["group"] not in seen]
    return kept, len(rows) - len(kept)


def fingerprint(dataset: Rows) -> str:
    """Return 16 hex digits of SHA-256 over all rows, in order."""
    digest = hashlib.sha256()
    for row in dataset:
        digest.update(json.dumps(row, sort_keys=True, ensure_ascii=True, default=str).encode() + b"\n")
    return digest.hexdigest()[:16]


# 4. Encoding


class EncodedGroup(NamedTuple):
    """One prompt and its responses as token ids; `row` is the index in the data set."""

    prompt_ids: list[int]
    response_ids: list[list[int]]
    row: int


def load_tokenizer(
    name: str, trust_remote_code: bool = False, chat_template: str | None = None
) -> PreTrainedTokenizerBase:
    """Load a tokenizer that has an end and a padding token.

    Args:
        name: hub name or local folder.
        trust_remote_code: run Python code that comes with it.
        chat_template: file with a Jinja chat template, used instead of the tokenizer's own.

    Raises:
        UserError: if it cannot be loaded, has no end token, or the template file cannot be read.
    """
    from transformers import AutoTokenizer

    path = Path(name).expanduser()
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(path) if path.exists() else name, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"tokenizer of model {name!r} cannot be loaded: {error}") from None
    if tokenizer.eos_token_id is None:
        raise UserError(f"tokenizer of model {name!r} has no end token: set its eos_token")
    if tokenizer.pad_token_id is None:
        # No new token, which would need a new embedding. Masks are explicit everywhere, so even the
        # end token is safe as padding.
        distinct = tokenizer.unk_token_id not in (None, tokenizer.eos_token_id)
        tokenizer.pad_token = tokenizer.unk_token if distinct else tokenizer.eos_token
    if chat_template is not None:
        try:
            tokenizer.chat_template = Path(chat_template).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"chat template {chat_template!r} cannot be read: {error}") from None
    return tokenizer


class Encoder:
    """The one way text becomes ids.

    A prompt is tokenised alone, with the tokenizer's special tokens (with none if a chat template wrote
    them: `chat`). A response is what tokenising prompt and response together adds to the prompt's ids.
    Where the two merge over the seam, the response is tokenised alone: the policy always samples after
    ids(prompt), so every method must see exactly that context. Responses end in the end token, once.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_prompt_tokens: int = 256,
        max_response_tokens: int = 128,
        chat: bool = False,
    ) -> None:
        self.tokenizer, self.chat = tokenizer, chat
        self.max_prompt_tokens, self.max_response_tokens = max_prompt_tokens, max_response_tokens
        assert isinstance(tokenizer.eos_token_id, int), "load_tokenizer sees to the end token"
        self.eos = tokenizer.eos_token_id
        start = tokenizer.bos_token_id
        self._start = start if isinstance(start, int) else self.eos
        # Some tokenizers close every text with the end token; after a prompt it would say "all done".
        with_special, without = self._tokenize(["a"], True)[0], self._tokenize(["a"], False)[0]
        self._closes = with_special[-1:] == [self.eos] and without[-1:] != [self.eos] and not chat

    def prompt(self, text: str) -> list[int]:
        """Return the ids of a prompt; never empty, since the first response token needs a context."""
        return self._prompts([text])[0]

    def response(self, prompt_text: str, response_text: str) -> list[int]:
        """Return the ids of a response to a prompt, end token included."""
        return self._responses([prompt_text], [self.prompt(prompt_text)], [response_text])[0]

    def encode_pairs(self, dataset: Rows, ranked: bool = False) -> tuple[list[EncodedGroup], Dropped]:
        """Encode ``prompt, chosen, rejected``, chosen first.

        With `ranked`, rows that have ``responses`` give all of them, best first; those between best and
        worst that are too long are left out, since a shorter ranking is still a ranking.

        Raises:
            UserError: if there were rows and none fits the limits.
        """
        rows = []
        for row in dataset:
            ranking = row.get("responses") if ranked else None
            rows.append((row["prompt"], list(ranking or (row["chosen"], row["rejected"]))))
        return self._encode(rows)

    def encode_demonstrations(self, dataset: Rows) -> tuple[list[EncodedGroup], Dropped]:
        """Encode ``prompt, response``: groups of one; raises as `encode_pairs` does."""
        return self._encode([(row["prompt"], [row["response"]]) for row in dataset])

    def encode_prompts(self, dataset: Rows) -> tuple[list[EncodedGroup], Dropped]:
        """Encode ``prompt``: groups without responses; raises as `encode_pairs` does."""
        return self._encode([(row["prompt"], []) for row in dataset])

    def _encode(self, rows: list[tuple[str, list[str]]]) -> tuple[list[EncodedGroup], Dropped]:
        prompts = self._prompts([prompt for prompt, _ in rows])
        # One flat list: fast tokenizers are several times faster on many texts at once.
        flat = [(i, text) for i, (_, texts) in enumerate(rows) for text in texts]
        texts, ids = [rows[i][0] for i, _ in flat], [prompts[i] for i, _ in flat]
        encoded = self._responses(texts, ids, [text for _, text in flat])
        responses: list[list[list[int]]] = [[] for _ in rows]
        for (i, _), response in zip(flat, encoded, strict=True):
            responses[i].append(response)
        groups, dropped = [], {"prompt too long": 0, "response too long": 0}
        for i, (prompt, group) in enumerate(zip(prompts, responses, strict=True)):
            fitting = [response for response in group if len(response) <= self.max_response_tokens]
            if len(prompt) > self.max_prompt_tokens:
                dropped["prompt too long"] += 1
            elif group and max(len(group[0]), len(group[-1])) > self.max_response_tokens:
                dropped["response too long"] += 1
            else:
                groups.append(EncodedGroup(prompt, fitting, i))
        if rows and not groups:
            raise UserError(self._nothing_fits(prompts, encoded, dropped))
        return groups, dropped

    def _nothing_fits(self, prompts: list[list[int]], responses: list[list[int]], dropped: Dropped) -> str:
        parts = [f"{reason}: {n}" for reason, n in dropped.items() if n]
        parts.append(f"max_prompt_tokens is {self.max_prompt_tokens}, the median prompt has {_median(prompts)}")
        if responses:
            limit, median = self.max_response_tokens, _median(responses)
            parts.append(f"max_response_tokens is {limit}, the median response has {median}")
        return f"none of {len(prompts)} rows fits the token limits; {'; '.join(parts)}: raise the short limit"

    def _prompts(self, texts: list[str]) -> list[list[int]]:
        return [ids or [self._start] for ids in map(self._opened, self._tokenize(texts, not self.chat))]

    def _responses(self, prompts: list[str], starts: list[list[int]], responses: list[str]) -> list[list[int]]:
        joint = self._tokenize([p + r for p, r in zip(prompts, responses, strict=True)], not self.chat)
        pairs = zip(starts, map(self._opened, joint), strict=True)
        tails = [ids[len(start) :] if ids[: len(start)] == start else [] for start, ids in pairs]
        merged = [i for i, tail in enumerate(tails) if not tail]
        for i, ids in zip(merged, self._tokenize([responses[i] for i in merged], False), strict=True):
            tails[i] = ids
        # Nothing follows the first end token, as nothing does when the policy samples.
        return [(ids[: ids.index(self.eos)] if self.eos in ids else ids) + [self.eos] for ids in tails]

    def _opened(self, ids: list[int]) -> list[int]:
        return ids[:-1] if self._closes and ids[-1:] == [self.eos] else ids

    def _tokenize(self, texts: list[str], special: bool) -> list[list[int]]:
        if not texts:
            return []
        encoded = self.tokenizer(texts, add_special_tokens=special, verbose=False)
        return [list(ids) for ids in encoded["input_ids"]]


def _median(sequences: list[list[int]]) -> int:
    return round(statistics.median(map(len, sequences)))


def collate(groups: Sequence[EncodedGroup], pad_id: int) -> Batch:
    """Pad groups to one batch: prompts on the left, responses on the right.

    Returns:
        A `Batch` of B groups with K the most responses of any (others get empty ones, masked out).

    Raises:
        ValueError: for no groups.
    """
    import torch

    from preflab.interface import Batch

    if not groups:
        raise ValueError("collate needs at least one group")
    size = (len(groups), max(len(g.response_ids) for g in groups))
    width = max([1, *(len(g.prompt_ids) for g in groups)])
    length = max([1, *(len(ids) for g in groups for ids in g.response_ids)])
    prompts, prompt_mask = torch.full((size[0], width), pad_id), torch.zeros(size[0], width, dtype=torch.bool)
    responses, mask = torch.full((*size, length), pad_id), torch.zeros(*size, length, dtype=torch.bool)
    for b, group in enumerate(groups):
        start = width - len(group.prompt_ids)
        prompts[b, start:], prompt_mask[b, start:] = torch.tensor(group.prompt_ids, dtype=torch.long), True
        for k, ids in enumerate(group.response_ids):
            responses[b, k, : len(ids)] = torch.tensor(ids, dtype=torch.long)
            mask[b, k, : len(ids)] = True
    return Batch(prompts, prompt_mask, responses, mask)


def to_dataset(rows: Sequence[Row], columns: Sequence[str] = ("prompt", "chosen", "rejected")) -> Dataset:
    """Return rows as a `datasets.Dataset` with these columns and any other that a row has."""
    from datasets import Dataset

    names = list(dict.fromkeys([*columns, *(name for row in rows for name in row)]))
    return Dataset.from_dict({name: [row.get(name) for row in rows] for name in names})
