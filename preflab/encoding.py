"""Text becomes token ids by one rule (`Encoder`), whoever asks, so that every method sees the same x and {y}.

Torch and transformers are imported where they are used: checking a config needs neither.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from preflab.data import Rows, each_row
from preflab.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from preflab.interface import Batch

Dropped = dict[str, int]  # why a row does not fit, and how many do not

AT_ONCE = 2048  # texts: what a tokenizer gives along with the ids takes many times their memory

CERTAIN = {"preference": 1.0, "margin": 0.0}  # what a pair means that says neither how sure nor how strong it is


class EncodedGroup(NamedTuple):
    """One prompt and its responses as token ids.

    Attributes:
        prompt_ids: tokens of the prompt.
        response_ids: tokens of each response, best first.
        row: index in the data set.
        feedback: what the data say of the responses (see `preflab.interface.Batch`).
    """

    prompt_ids: list[int]
    response_ids: list[list[int]]
    row: int
    feedback: Mapping[str, float] = {}


class _Texts(NamedTuple):
    """An `EncodedGroup` before it is encoded."""

    prompt: str
    responses: list[str]
    row: int
    feedback: Mapping[str, float] = {}


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


class _Numbers(dict[int, int]):
    """Numbers to themselves."""

    def __missing__(self, number: int) -> int:
        self[number] = number
        return number


class Encoder:
    """The one way text becomes ids.

    A prompt is tokenised alone, with the tokenizer's special tokens (with none if a chat template wrote
    them: `chat`). A response is what tokenising prompt and response together adds to the prompt's ids.
    Where the two merge over the seam, the response is tokenised alone: the policy always samples after
    ids(prompt), so every method must see exactly that context. Responses end in the end token, once; with
    `cut`, those that fill the limit without it were cut there and stay as they are.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_prompt_tokens: int = 256,
        max_response_tokens: int = 128,
        chat: bool = False,
        cut: bool = False,
    ) -> None:
        self.tokenizer, self.chat, self.cut = tokenizer, chat, cut
        self._numbers = _Numbers()
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

        Where a row has ``preference`` or ``margin``, every group's feedback has it (`CERTAIN` fills in).
        With `ranked`, rows that have ``responses`` give all of them, best first; those between best and
        worst that are too long are left out, since a shorter ranking is still a ranking. A ranking is its
        order alone: what is said of a pair is left out too.

        Raises:
            UserError: if there were rows and none fits the limits.
        """
        rows, texts = list(each_row(dataset)), []
        for i, (row, said) in enumerate(zip(rows, [{}] * len(rows) if ranked else feedback(rows), strict=True)):
            ranking = row.get("responses") if ranked else None
            texts.append(_Texts(row["prompt"], list(ranking or (row["chosen"], row["rejected"])), i, said))
        return self._encode(texts)

    def encode_singles(self, dataset: Rows) -> tuple[list[EncodedGroup], Dropped]:
        """Encode single responses with feedback ``desirable``, 1 or 0; raises as `encode_pairs` does.

        A row ``prompt, response, desirable`` gives one group. A pair gives two, the likelier response
        (rejected, where ``preference`` is below 1/2) being desirable.
        """
        texts = []
        for i, row in enumerate(each_row(dataset)):
            if row.get("chosen") is None:
                labelled = [(row["response"], row["desirable"])]
            else:
                sure = row.get("preference")
                likelier = sure is None or sure >= 0.5
                labelled = [(row["chosen"], likelier), (row["rejected"], not likelier)]
            texts += [_Texts(row["prompt"], [text], i, {"desirable": float(good)}) for text, good in labelled]
        return self._encode(texts)

    def encode_demonstrations(self, dataset: Rows) -> tuple[list[EncodedGroup], Dropped]:
        """Encode ``prompt, response``: groups of one; raises as `encode_pairs` does."""
        return self._encode([_Texts(row["prompt"], [row["response"]], i) for i, row in enumerate(each_row(dataset))])

    def encode_prompts(self, dataset: Rows) -> tuple[list[EncodedGroup], Dropped]:
        """Encode ``prompt``: groups without responses; raises as `encode_pairs` does."""
        return self._encode([_Texts(row["prompt"], [], i) for i, row in enumerate(each_row(dataset))])

    def _encode(self, rows: list[_Texts]) -> tuple[list[EncodedGroup], Dropped]:
        different = list(dict.fromkeys(row.prompt for row in rows))
        encodings = dict(zip(different, self._prompts(different), strict=True))
        prompts = [encodings[row.prompt] for row in rows]
        # One flat list: fast tokenizers are several times faster on many texts at once.
        # What is said to a prompt that is too long is dropped with it, however long it is itself.
        fits = [len(ids) <= self.max_prompt_tokens for ids in prompts]
        flat = [(i, text) for i, row in enumerate(rows) if fits[i] for text in row.responses]
        texts, ids = [rows[i].prompt for i, _ in flat], [prompts[i] for i, _ in flat]
        encoded = self._responses(texts, ids, [text for _, text in flat])
        responses: list[list[list[int]]] = [[] for _ in rows]
        for (i, _), response in zip(flat, encoded, strict=True):
            responses[i].append(response)
        groups, dropped = [], {"prompt too long": 0, "response too long": 0}
        for row, prompt, group in zip(rows, prompts, responses, strict=True):
            fitting = [response for response in group if len(response) <= self.max_response_tokens]
            if len(prompt) > self.max_prompt_tokens:
                dropped["prompt too long"] += 1
            elif group and max(len(group[0]), len(group[-1])) > self.max_response_tokens:
                dropped["response too long"] += 1
            else:
                groups.append(EncodedGroup(prompt, fitting, row.row, row.feedback))
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
        return [self._ended(ids[: ids.index(self.eos)] if self.eos in ids else ids) for ids in tails]

    def _ended(self, ids: list[int]) -> list[int]:
        return ids if self.cut and len(ids) == self.max_response_tokens else [*ids, self.eos]

    def _opened(self, ids: list[int]) -> list[int]:
        return ids[:-1] if self._closes and ids[-1:] == [self.eos] else ids

    def _tokenize(self, texts: list[str], special: bool) -> list[list[int]]:
        if not texts:
            return []
        found: list[list[int]] = []
        for start in range(0, len(texts), AT_ONCE):
            part = texts[start : start + AT_ONCE]
            encoded = self.tokenizer(
                part,
                add_special_tokens=special,
                verbose=False,
                return_attention_mask=False,
                return_token_type_ids=False,
            )
            # One object for each number: a tokenizer makes a new one for every token, four times the size of a list's
            # place for it.
            found += [list(map(self._numbers.__getitem__, ids)) for ids in encoded["input_ids"]]
        return found


def feedback(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Return what each pair's row says of it; where one says how sure or how strong it is, all do (`CERTAIN`)."""
    said = {name: certain for name, certain in CERTAIN.items() if any(row.get(name) is not None for row in rows)}
    return [{k: certain if row.get(k) is None else float(row[k]) for k, certain in said.items()} for row in rows]


def _median(sequences: list[list[int]]) -> int:
    return round(statistics.median(map(len, sequences)))


def collate(groups: Sequence[EncodedGroup], pad_id: int) -> Batch:
    """Pad groups to one batch: prompts on the left, responses on the right.

    Returns:
        A `Batch` of B groups with K the most responses of any (others get empty ones, masked out). Its
        feedback has the names of the first group's, which all groups must have.

    Raises:
        ValueError: for no groups.
    """
    import torch

    from preflab.interface import Batch

    if not groups:
        raise ValueError("collate needs at least one group")
    size = max(len(group.response_ids) for group in groups)
    nothing: list[list[int]] = [[]] * size
    responses = [ids for group in groups for ids in [*group.response_ids, *nothing][:size]]
    prompt_ids, prompt_mask = padded([group.prompt_ids for group in groups], pad_id, left=True)
    response_ids, response_mask = (x.view(len(groups), size, x.shape[1]) for x in padded(responses, pad_id))
    feedback = {name: torch.tensor([g.feedback[name] for g in groups]) for name in groups[0].feedback}
    return Batch(prompt_ids, prompt_mask, response_ids, response_mask, feedback)


def padded(rows: Sequence[Sequence[int]], pad_id: int, *, left: bool = False) -> tuple[Tensor, Tensor]:
    """Return ids and bool mask ``[rows, longest]`` of token ids of any lengths, padded on one side."""
    import torch

    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    steps = np.arange(max(1, lengths.max(initial=0)))
    mask = steps >= len(steps) - lengths[:, None] if left else steps < lengths[:, None]
    ids = np.full(mask.shape, pad_id)
    # One assignment for all rows: a tensor for each is most of the cost of a batch.
    ids[mask] = np.fromiter(chain.from_iterable(rows), np.int64, int(lengths.sum()))
    return torch.from_numpy(ids), torch.from_numpy(mask)
