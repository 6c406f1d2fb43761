"""Text becomes token ids by one rule (`Encoder`), whoever asks, so that every method sees the same x and {y}.

Torch and transformers are imported where they are used: checking a config needs neither.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from preflab.data.splits import Rows, each_row
from preflab.errors import UserError
from preflab.tokens.endings import Ends, embedding_rows, hide_ends
from preflab.tokens.literals import Literals
from preflab.tokens.tokenising import Tokeniser

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


logger = logging.getLogger(__name__)

Dropped = dict[str, int]  # why a row does not fit, and how many do not

EQUAL = "chosen and rejected equal as tokens"
CUT = "responses hold an end token before their end; they are read up to it, as sampling would stop there"
LONG_PROMPT = "prompts are over max_prompt_tokens, and are read without their beginning"
LONG_RESPONSE = "responses are over max_response_tokens, and are read up to there, without an end token"
TEXT = "texts hold special-token strings inside messages; they are read as text"
CERTAIN = {"preference": 1.0, "margin": 0.0}  # what a pair means that says neither how sure nor how strong it is


class EncodedGroup(NamedTuple):
    """One prompt and its responses as token ids.

    Attributes:
        prompt_ids: tokens of the prompt.
        response_ids: tokens of each response, best first.
        row: index in the data set.
        feedback: what the data say of the group, or in a list of each response (see `preflab.method.contract.Labels`).
    """

    prompt_ids: list[int]
    response_ids: list[list[int]]
    row: int
    feedback: Mapping[str, float | list[float]] = {}


class Measured(NamedTuple):
    """How long a row is, before anything of it is dropped or cut at the limits.

    Attributes:
        prompt: tokens.
        responses: tokens of each, its end token included; none where the prompt alone drops the row.
    """

    prompt: int
    responses: tuple[int, ...]


class _Texts(NamedTuple):
    """An `EncodedGroup` before it is encoded."""

    prompt: str
    responses: list[str]
    row: int
    feedback: Mapping[str, float | list[float]] = {}


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
    except Exception as error:  # whatever a damaged file leads the library to
        reason = f"{type(error).__name__}: {error}" if isinstance(error, (KeyError, TypeError)) else str(error)
        raise UserError(f"tokenizer of model {name!r} cannot be loaded: {reason}") from None
    if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):  # what some classes are without their files
        raise UserError(f"tokenizer of model {name!r} has no vocabulary; are its files (tokenizer.json) there?")
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
        if not tokenizer.chat_template.strip():
            raise UserError(f"chat template {chat_template!r} is empty; leave it out, or give one that writes messages")
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

    What is over a limit does not fit, and its row is dropped, or with `truncate` it is cut: a prompt keeps its end (and
    its start token), a response its beginning, without an end token, as one that the policy samples up to there.

    Attributes:
        ends: the end tokens (see `preflab.tokens.endings`).
        literals: which special-token strings were guarded in the texts, and are text (see
            `preflab.tokens.literals`); those of another tokenizer, where that one wrote the texts.
        eos: the one that responses without any get.
        tokenise: gives ids of texts.
        noted: what was read otherwise than it is written, and in which texts; `report` says so.
        measured: if it is a list, gets the lengths of every row that is encoded.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_prompt_tokens: int = 256,
        max_response_tokens: int = 128,
        chat: bool = False,
        cut: bool = False,
        literals: Literals | None = None,
        truncate: Collection[Literal["prompt", "response"]] = (),
        measured: list[Measured] | None = None,
    ) -> None:
        self.tokenizer, self.chat, self.cut, self.truncate, self.measured = tokenizer, chat, cut, truncate, measured
        self.max_prompt_tokens, self.max_response_tokens = max_prompt_tokens, max_response_tokens
        self.ends, own = Ends.of(tokenizer), tokenizer.eos_token_id
        self.eos = self.ends.closing if chat else own
        start = tokenizer.bos_token_id
        self._start = start if isinstance(start, int) else own
        self.noted: dict[str, set[str]] = {}
        self.literals = literals or Literals.of(tokenizer)
        self.tokenise = Tokeniser(tokenizer, self.literals)
        if self.tokenise.rows is not None:
            self.tokenise.check_rows(self.tokenise.rows, [self.eos])
        # Some tokenizers close every text with the end token; after a prompt it would say "all done".
        self._closes = self.tokenise.closes and not chat

    def prompt(self, text: str) -> list[int]:
        """Return the ids of a prompt; never empty, since the first response token needs a context."""
        return self._shortened(text, self._prompts([text])[0])

    def fits(self, prompt_text: str) -> bool:
        """Whether a prompt is within the limit before anything is cut."""
        return len(self._prompts([prompt_text])[0]) <= self.max_prompt_tokens

    def response(self, prompt_text: str, response_text: str) -> list[int]:
        """Return the ids of a response to a prompt, end token included."""
        return self._responses([prompt_text], self._prompts([prompt_text]), [response_text])[0]

    def encode_pairs(
        self, dataset: Rows, ranked: bool = False, equals: bool = False
    ) -> tuple[list[EncodedGroup], Dropped]:
        """Encode ``prompt, chosen, rejected``, chosen first.

        Where a row has ``preference`` or ``margin``, every group's feedback has it (`CERTAIN` fills in).
        With `ranked`, rows that have ``responses`` give all of them, best first; those between best and
        worst that are too long are left out, since a shorter ranking is still a ranking. A ranking is its
        order alone: what is said of a pair is left out too. Where any row has a ``rank``, responses tying in it, every
        group's feedback has one. Pairs of different texts that come out as the same tokens are dropped unless `equals`
        keeps them; those of equal texts are the business of whoever made the data.

        Raises:
            UserError: if there were rows and none fits the limits.
        """
        rows, texts = list(each_row(dataset)), []
        ties = ranked and any(row.get("rank") is not None for row in rows)
        said: list[dict[str, Any]] = [{} for _ in rows] if ranked else feedback(rows)
        for i, row in enumerate(rows):
            ranking = row.get("responses") if ranked else None
            responses = list(ranking or (row["chosen"], row["rejected"]))
            if ties:
                said[i]["rank"] = list(map(float, (ranking and row.get("rank")) or range(len(responses))))
            texts.append(_Texts(row["prompt"], responses, i, said[i]))
        return self._encode(texts, equals)

    def encode_singles(self, dataset: Rows) -> tuple[list[EncodedGroup], Dropped]:
        """Encode single responses with feedback ``desirable``, 1 or 0; raises as `encode_pairs` does.

        A row ``prompt, response, desirable`` gives one group. A pair gives two, the likelier response
        (rejected, where ``preference`` is below 1/2) being desirable; none where neither is likelier.
        """
        texts, undecided = [], 0
        for i, row in enumerate(each_row(dataset)):
            if row.get("chosen") is None:
                labelled = [(row["response"], row["desirable"])]
            else:
                sure = 1.0 if row.get("preference") is None else row["preference"]
                if sure == 0.5:
                    undecided += 1
                    continue
                likelier = sure > 0.5
                labelled = [(row["chosen"], likelier), (row["rejected"], not likelier)]
            texts += [_Texts(row["prompt"], [text], i, {"desirable": float(good)}) for text, good in labelled]
        if undecided:
            logger.warning("%d pairs of preference 1/2 give no desirable response and are left out", undecided)
        return self._encode(texts)

    def encode_demonstrations(self, dataset: Rows) -> tuple[list[EncodedGroup], Dropped]:
        """Encode ``prompt, response``: groups of one; raises as `encode_pairs` does."""
        return self._encode([_Texts(row["prompt"], [row["response"]], i) for i, row in enumerate(each_row(dataset))])

    def encode_prompts(self, dataset: Rows) -> tuple[list[EncodedGroup], Dropped]:
        """Encode ``prompt``: groups without responses; raises as `encode_pairs` does."""
        return self._encode([_Texts(row["prompt"], [], i) for i, row in enumerate(each_row(dataset))])

    def _encode(self, rows: list[_Texts], equals: bool = False) -> tuple[list[EncodedGroup], Dropped]:
        different = list(dict.fromkeys(row.prompt for row in rows))
        encodings = dict(zip(different, self._prompts(different), strict=True))
        prompts = [encodings[row.prompt] for row in rows]
        # One flat list: fast tokenizers are several times faster on many texts at once.
        # What is said to a prompt that is too long is dropped with it, however long it is itself.
        fits = [len(ids) <= self.max_prompt_tokens or "prompt" in self.truncate for ids in prompts]
        flat = [(i, text) for i, row in enumerate(rows) if fits[i] for text in row.responses]
        texts, ids = [rows[i].prompt for i, _ in flat], [prompts[i] for i, _ in flat]
        lengths: list[int] | None = None if self.measured is None else []
        encoded = self._responses(texts, ids, [text for _, text in flat], lengths)
        if self.measured is not None:
            self.measured += _measured(prompts, [i for i, _ in flat], lengths or [])
        responses: list[list[list[int]]] = [[] for _ in rows]
        for (i, _), response in zip(flat, encoded, strict=True):
            responses[i].append(response)
        # A response goes on from the whole prompt, and is then put behind what is left of it.
        prompts = [self._shortened(row.prompt, prompt) for row, prompt in zip(rows, prompts, strict=True)]
        groups, dropped = [], {"prompt too long": 0, "response too long": 0}
        for row, prompt, group in zip(rows, prompts, responses, strict=True):
            short = [len(response) <= self.max_response_tokens for response in group]
            fitting = list(compress(group, short))
            if len(prompt) > self.max_prompt_tokens:
                dropped["prompt too long"] += 1
            elif group and max(len(group[0]), len(group[-1])) > self.max_response_tokens:
                dropped["response too long"] += 1
            elif len(group) > 1 and group[0] == group[-1] and row.responses[0] != row.responses[-1] and not equals:
                dropped[EQUAL] = dropped.get(EQUAL, 0) + 1
            else:
                each = {k: list(compress(v, short)) if isinstance(v, list) else v for k, v in row.feedback.items()}
                groups.append(EncodedGroup(prompt, fitting, row.row, each))
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
        return [ids or [self._start] for ids in map(self._opened, self.tokenise(texts, not self.chat))]

    def _responses(
        self, prompts: list[str], starts: list[list[int]], responses: list[str], lengths: list[int] | None = None
    ) -> list[list[int]]:
        """Return the ids of responses; `lengths` gets how many they would be without a limit."""
        self._note_literals(responses)
        joint = self.tokenise([p + r for p, r in zip(prompts, responses, strict=True)], not self.chat)
        pairs = zip(starts, map(self._opened, joint), strict=True)
        tails = [ids[len(start) :] if ids[: len(start)] == start else [] for start, ids in pairs]
        merged = [i for i, tail in enumerate(tails) if not tail]
        for i, ids in zip(merged, self.tokenise([responses[i] for i in merged], False), strict=True):
            tails[i] = ids
        ended = [self._ended(text, ids) for text, ids in zip(responses, tails, strict=True)]
        if lengths is not None:
            lengths += (len(self._said(ids)[0]) + 1 for ids in tails)
        blank: dict[tuple[int, ...], bool] = {}  # few different things stand behind a template's end token
        for text, whole, kept in zip(responses, tails, ended, strict=True):
            if rest := tuple(whole[len(kept) :]):
                if text in self.noted.get(LONG_RESPONSE, ()):
                    continue  # what is lost has been said
                if rest not in blank:
                    blank[rest] = not self.tokenizer.decode(rest, skip_special_tokens=True).strip()
                if not blank[rest]:
                    self.noted.setdefault(CUT, set()).add(text)
        return ended

    def _note_literals(self, texts: Iterable[str]) -> None:
        if guarded := {text for text in texts if len(self.literals.pieces(text)) > 1}:
            self.noted.setdefault(TEXT, set()).update(guarded)

    def _ended(self, text: str, ids: list[int]) -> list[int]:
        """Return what a policy would have sampled: nothing follows the first end token, or the limit."""
        said, end = self._said(ids)
        limit = self.max_response_tokens
        if len(said) >= limit and "response" in self.truncate:
            self.noted.setdefault(LONG_RESPONSE, set()).add(text)
            return said[:limit]
        return said if self.cut and len(said) == limit else [*said, end]

    def _said(self, ids: list[int]) -> tuple[list[int], int]:
        """Return what stands before the first end token, and that token; the usual one where there is none."""
        place = min((ids.index(end) for end in self.ends.ids if end in ids), default=None)
        return (ids, self.eos) if place is None else (ids[:place], ids[place])

    def _shortened(self, text: str, ids: list[int]) -> list[int]:
        """Return the end of a prompt that is too long, behind its start token, if that is asked for."""
        excess = len(ids) - self.max_prompt_tokens
        if excess <= 0 or "prompt" not in self.truncate:
            return ids
        self.noted.setdefault(LONG_PROMPT, set()).add(text)
        head = ids[:1] if ids[0] == self.tokenizer.bos_token_id and self.max_prompt_tokens > 1 else []
        return [*head, *ids[excess + len(head) :]]

    def _opened(self, ids: list[int]) -> list[int]:
        return ids[:-1] if self._closes and ids[-1:] == [self.tokenizer.eos_token_id] else ids


def _measured(prompts: list[list[int]], rows: list[int], lengths: list[int]) -> Iterator[Measured]:
    """Yield the lengths of rows, given the row and the length of each response."""
    of_row: dict[int, list[int]] = {}
    for row, length in zip(rows, lengths, strict=True):
        of_row.setdefault(row, []).append(length)
    return (Measured(len(prompt), tuple(of_row.get(i, ()))) for i, prompt in enumerate(prompts))


def feedback(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what each pair's row says of it; where one says how sure or how strong it is, all do (`CERTAIN`)."""
    said = {name: certain for name, certain in CERTAIN.items() if any(row.get(name) is not None for row in rows)}
    return [{k: certain if row.get(k) is None else float(row[k]) for k, certain in said.items()} for row in rows]


def _median(sequences: list[list[int]]) -> int:
    return round(statistics.median(map(len, sequences)))
