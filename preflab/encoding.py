"""Text becomes token ids by one rule (`Encoder`), whoever asks, so that every method sees the same x and {y}.

Torch and transformers are imported where they are used: checking a config needs neither.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from preflab.data import Rows
from preflab.endings import Ends, embedding_rows, hide_ends, written_tokens
from preflab.errors import UserError
from preflab.literals import JOINER, Literals

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from preflab.interface import Batch

logger = logging.getLogger(__name__)

Dropped = dict[str, int]  # why a row does not fit, and how many do not

EQUAL = "chosen and rejected equal as tokens"
CUT = "responses hold an end token before their end; they are read up to it, as sampling would stop there"
TEXT = "texts hold special-token strings inside messages; they are read as text"
ANCHORS = ("\n", "a", "\u3002")  # what a piece may follow without growing together with it
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
        UserError: if it cannot be loaded, has no end token, or the template file cannot be read; or if the model
            beside it names end tokens that are none.
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
    rows = embedding_rows(tokenizer.name_or_path)
    if rows is not None and tokenizer.pad_token_id is not None and tokenizer.pad_token_id >= rows:
        logger.warning(
            "the padding of model %r, %r, is a token that it has no embedding for; another is used",
            name,
            tokenizer.pad_token,
        )
        tokenizer.pad_token = None
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
    hide_ends(tokenizer)
    return tokenizer


class Encoder:
    """The one way text becomes ids.

    A prompt is tokenised alone, with the tokenizer's special tokens (with none if a chat template wrote
    them: `chat`; with one start token where the text has its own). A response is what tokenising prompt and
    response together adds to the prompt's ids. Where the two merge over the seam, the response is tokenised
    alone: the policy always samples after ids(prompt), so every method must see exactly that context. A
    response ends at its first end token, as it does when the policy samples; one that has none gets the one
    that the chat template writes (`chat`), else the tokenizer's. With `cut`, those that fill the limit
    without it were cut there and stay as they are.

    Attributes:
        ends: the end tokens (see `preflab.endings`).
        literals: which special-token strings were guarded in the texts, and are text (see `preflab.literals`); those
            of another tokenizer, where that one wrote the texts.
        eos: the one that responses without any get.
        rows: how many ids the model beside the tokenizer has an embedding for; None where there is none.
        noted: what was read otherwise than it is written, and in which texts; `report` says so.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_prompt_tokens: int = 256,
        max_response_tokens: int = 128,
        chat: bool = False,
        cut: bool = False,
        literals: Literals | None = None,
    ) -> None:
        self.tokenizer, self.chat, self.cut = tokenizer, chat, cut
        self.max_prompt_tokens, self.max_response_tokens = max_prompt_tokens, max_response_tokens
        self.ends, own = Ends.of(tokenizer), tokenizer.eos_token_id
        self.eos = self.ends.closing if chat else own
        start = tokenizer.bos_token_id
        self._start = start if isinstance(start, int) else own
        self.noted: dict[str, set[str]] = {}
        self.literals = literals or Literals.of(tokenizer)
        self.rows = embedding_rows(tokenizer.name_or_path)
        self._used: set[int] = set()
        self._doubled: list[Any] | None = None
        # Some tokenizers close every text with the end token; after a prompt it would say "all done".
        with_special, without = self._tokenize(["a"], True)[0], self._tokenize(["a"], False)[0]
        # Most put their start token before every text, one that begins with it included.
        self._doubled = [start, start] if with_special[:1] == [start] != without[:1] else None
        self._closes = with_special[-1:] == [own] and without[-1:] != [own] and not chat

    def prompt(self, text: str) -> list[int]:
        """Return the ids of a prompt; never empty, since the first response token needs a context."""
        return self._prompts([text])[0]

    def response(self, prompt_text: str, response_text: str) -> list[int]:
        """Return the ids of a response to a prompt, end token included."""
        return self._responses([prompt_text], [self.prompt(prompt_text)], [response_text])[0]

    def encode_pairs(
        self, dataset: Rows, ranked: bool = False, equals: bool = False
    ) -> tuple[list[EncodedGroup], Dropped]:
        """Encode ``prompt, chosen, rejected``, chosen first.

        Where a row has ``preference`` or ``margin``, every group's feedback has it (`CERTAIN` fills in).
        With `ranked`, rows that have ``responses`` give all of them, best first; those between best and
        worst that are too long are left out, since a shorter ranking is still a ranking. A ranking is its
        order alone: what is said of a pair is left out too.
        Pairs of different texts that come out as the same tokens are dropped unless `equals` keeps them; those of
        equal texts are the business of whoever made the data.

        Raises:
            UserError: if there were rows and none fits the limits.
        """
        rows, texts = list(dataset), []
        said = {} if ranked else {k: v for k, v in CERTAIN.items() if any(row.get(k) is not None for row in rows)}
        for i, row in enumerate(rows):
            ranking = row.get("responses") if ranked else None
            feedback = {k: certain if row.get(k) is None else float(row[k]) for k, certain in said.items()}
            texts.append(_Texts(row["prompt"], list(ranking or (row["chosen"], row["rejected"])), i, feedback))
        return self._encode(texts, equals)

    def encode_singles(self, dataset: Rows) -> tuple[list[EncodedGroup], Dropped]:
        """Encode single responses with feedback ``desirable``, 1 or 0; raises as `encode_pairs` does.

        A row ``prompt, response, desirable`` gives one group. A pair gives two, the likelier response
        (rejected, where ``preference`` is below 1/2) being desirable.
        """
        texts = []
        for i, row in enumerate(dataset):
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
        return self._encode([_Texts(row["prompt"], [row["response"]], i) for i, row in enumerate(dataset)])

    def encode_prompts(self, dataset: Rows) -> tuple[list[EncodedGroup], Dropped]:
        """Encode ``prompt``: groups without responses; raises as `encode_pairs` does."""
        return self._encode([_Texts(row["prompt"], [], i) for i, row in enumerate(dataset)])

    def _encode(self, rows: list[_Texts], equals: bool = False) -> tuple[list[EncodedGroup], Dropped]:
        prompts = self._prompts([row.prompt for row in rows])
        # One flat list: fast tokenizers are several times faster on many texts at once.
        flat = [(i, text) for i, row in enumerate(rows) for text in row.responses]
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
            elif len(group) > 1 and group[0] == group[-1] and row.responses[0] != row.responses[-1] and not equals:
                dropped[EQUAL] = dropped.get(EQUAL, 0) + 1
            else:
                groups.append(EncodedGroup(prompt, fitting, row.row, row.feedback))
        if rows and not groups:
            raise UserError(self._nothing_fits(prompts, encoded, dropped))
        return groups, dropped

    def report(self, where: str) -> None:
        """Say once what was read otherwise than it is written, and in how many texts."""
        for what, texts in self.noted.items():
            logger.warning("%s: %d %s", where, len(texts), what)
        self.noted = {}

    def _nothing_fits(self, prompts: list[list[int]], responses: list[list[int]], dropped: Dropped) -> str:
        if dropped.get(EQUAL) == len(prompts):
            return (
                f"chosen and rejected are the same tokens in all {len(prompts)} rows: the model's tokenizer does not "
                "tell them apart; give data in its language, or another model"
            )
        parts = [f"{reason}: {n}" for reason, n in dropped.items() if n]
        parts.append(f"max_prompt_tokens is {self.max_prompt_tokens}, the median prompt has {_median(prompts)}")
        if responses:
            limit, median = self.max_response_tokens, _median(responses)
            parts.append(f"max_response_tokens is {limit}, the median response has {median}")
        return f"none of {len(prompts)} rows fits the token limits; {'; '.join(parts)}: raise the short limit"

    def _prompts(self, texts: list[str]) -> list[list[int]]:
        self._note_literals(texts)
        return [ids or [self._start] for ids in map(self._opened, self._tokenize(texts, not self.chat))]

    def _responses(self, prompts: list[str], starts: list[list[int]], responses: list[str]) -> list[list[int]]:
        self._note_literals(responses)
        joint = self._tokenize([p + r for p, r in zip(prompts, responses, strict=True)], not self.chat)
        pairs = zip(starts, map(self._opened, joint), strict=True)
        tails = [ids[len(start) :] if ids[: len(start)] == start else [] for start, ids in pairs]
        merged = [i for i, tail in enumerate(tails) if not tail]
        for i, ids in zip(merged, self._tokenize([responses[i] for i in merged], False), strict=True):
            tails[i] = ids
        ended = [self._ended(ids) for ids in tails]
        blank: dict[tuple[int, ...], bool] = {}  # few different things stand behind a template's end token
        for text, whole, kept in zip(responses, tails, ended, strict=True):
            if rest := tuple(whole[len(kept) :]):
                if rest not in blank:
                    blank[rest] = not self.tokenizer.decode(rest, skip_special_tokens=True).strip()
                if not blank[rest]:
                    self.noted.setdefault(CUT, set()).add(text)
        return ended

    def _note_literals(self, texts: Iterable[str]) -> None:
        if guarded := {text for text in texts if len(self.literals.pieces(text)) > 1}:
            self.noted.setdefault(TEXT, set()).update(guarded)

    def _ended(self, ids: list[int]) -> list[int]:
        """Return what a policy would have sampled: nothing follows the first end token."""
        place = min((ids.index(end) for end in self.ends.ids if end in ids), default=None)
        said, end = (ids, self.eos) if place is None else (ids[:place], ids[place])
        return said if self.cut and len(said) == self.max_response_tokens else [*said, end]

    def _opened(self, ids: list[int]) -> list[int]:
        return ids[:-1] if self._closes and ids[-1:] == [self.tokenizer.eos_token_id] else ids

    def _tokenize(self, texts: list[str], special: bool) -> list[list[int]]:
        if not texts:
            return []
        guarded = {i: self._pieces(text) for i, text in enumerate(texts) if JOINER in text}
        plain = [guarded[i][0] if i in guarded else text for i, text in enumerate(texts)]
        encoded = self.tokenizer(plain, add_special_tokens=special, verbose=False)
        found = [list(ids) for ids in encoded["input_ids"]]
        for i, pieces in guarded.items():
            found[i] = self._joined(found[i], pieces[1:], special)
        if special and self._doubled is not None:
            found = [ids[1:] if ids[:2] == self._doubled else ids for ids in found]
        if self.rows is None:
            self._used |= {token for ids in found for token in ids}
        elif self.rows < len(self.tokenizer):
            self.check_rows(self.rows, {token for ids in [*found, [self.eos]] for token in ids})
        return found

    def _pieces(self, text: str) -> list[str]:
        """Return a guarded text as it was written, cut inside what this tokenizer would take for a token."""
        pieces, own = self.literals.pieces(text), tuple(written_tokens(self.tokenizer))
        whole, found, at = "".join(pieces), [pieces[0]], len(pieces[0])
        for piece in pieces[1:]:
            if whole.startswith(own, at - 1):
                found.append(piece)
            else:
                found[-1] += piece
            at += len(piece)
        return found

    def _joined(self, first: list[int], rest: list[str], special: bool) -> list[int]:
        """Return the ids of a text that is encoded piece by piece, so that no special token is found over the seams."""
        closing = [self.tokenizer.eos_token_id] if self._closes and special else []
        ids = first[: len(first) - len(closing)]
        for piece in rest:
            ids += self._going_on(piece)
        return ids + closing

    def _going_on(self, piece: str) -> list[int]:
        """Return the ids of a text that goes on after another: many tokenizers begin a text with a blank."""
        anchors = self.tokenizer(list(ANCHORS), add_special_tokens=False)["input_ids"]
        joint = self.tokenizer([anchor + piece for anchor in ANCHORS], add_special_tokens=False)["input_ids"]
        for before, ids in zip(anchors, joint, strict=True):
            if list(ids[: len(before)]) == list(before):
                return list(ids[len(before) :])
        return list(self.tokenizer(piece, add_special_tokens=False)["input_ids"])

    def check_rows(self, rows: int, used: Collection[int] | None = None) -> None:
        """Refuse token ids beyond so many embeddings, before a model meets them.

        Args:
            rows: how many embeddings there are.
            used: ids; by default all that were encoded while `rows` was not known.

        Raises:
            UserError: if there are any, naming them.
        """
        self.rows = rows
        beyond = sorted(token for token in (self._used if used is None else used) if token >= rows)
        if beyond:
            named = [f"{token} {self.tokenizer.convert_ids_to_tokens(token)!r}" for token in beyond[:5]]
            raise UserError(
                f"the texts use token ids that model {self.tokenizer.name_or_path!r} has no embedding for (it has "
                f"{rows}): {', '.join(named)}{', …' if len(beyond) > 5 else ''}; use the tokenizer and chat template "
                "that belong to the model, or a model whose embeddings were resized to its tokenizer, and trained"
            )


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
