"""Special-token strings that a user wrote are text: nothing inside a message may open or end a turn.

A chat template puts messages into one string, in which the template's ``<|im_end|>`` and a user's are the same. So
what a message holds is guarded before it is written: every such string gets an invisible character, U+2060 WORD
JOINER, behind its first one. No tokenizer, judge or trainer that is given the string then reads a token in it; and
`preflab.data.encoding.Encoder`, which knows, takes the joiner out again and encodes the rest as plain text.

A string may hold joiners of its own: guarding adds one to those behind the first character, however many there are,
and reading takes one away. The two undo each other exactly. No torch at import time.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

from preflab.tokens.endings import PROBE, Ends, rendered_probe, written_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


logger = logging.getLogger(__name__)

JOINER = "\u2060"
MARKER = re.compile(r"<[^\s<>]+>|\[/?[A-Z_]+\]")
WIDESPREAD = """
    <s> </s> <unk> <pad> <bos> <eos> <|endoftext|> <|im_start|> <|im_end|> <|begin_of_text|> <|end_of_text|> <|eot_id|>
    <|start_header_id|> <|end_header_id|> <start_of_turn> <end_of_turn> <|user|> <|assistant|> <|system|> <|end|>
    [INST] [/INST]"""
"""Those of common models: a text may be read by another tokenizer than the one it was written for."""

How = Literal["auto", "text", "tokens"]


class Literals:
    """What counts as a special-token string in the texts of one tokenizer.

    Args:
        strings: the tokenizer's special tokens, the markers of its chat template and the widespread ones.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        self.strings = frozenset(s for s in strings if len(s) > 1)
        rests: dict[str, list[str]] = {}
        for string in sorted(self.strings):
            rests.setdefault(string[0], []).append(string[1:])
        self._starts = tuple(rests)
        # The rest is looked ahead for: strings may overlap, and may hold joiners already.
        first = "|".join(f"{re.escape(c)}(?={_any_of(found)})" for c, found in rests.items())
        self._first, self._guarded = re.compile(first), re.compile(f"(?:{first}){JOINER}")

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Literals:
        """Return those of a tokenizer; they are found once."""
        template = str(tokenizer.chat_template)
        if tokenizer not in _KNOWN or _KNOWN[tokenizer][0] != template:
            _KNOWN[tokenizer] = (template, cls({*_special(tokenizer), *WIDESPREAD.split()}))
        return _KNOWN[tokenizer][1]

    def guard(self, text: str) -> str:
        """Return a text in which every special-token string is guarded."""
        if JOINER not in text and not any(c in text for c in self._starts):  # nearly always, and far quicker
            return text
        return self._first.sub(lambda found: found[0] + JOINER, text)

    def keep(self, text: str) -> str:
        """Return a text whose special-token strings stay what they are: only what looks guarded is guarded."""
        return self._guarded.sub(lambda found: found[0] + JOINER, text) if JOINER in text else text

    def pieces(self, text: str) -> list[str]:
        """Return a guarded text as its writer wrote it, cut behind the first character of each guarded string."""
        if JOINER not in text:
            return [text]
        cuts = [found.end() for found in self._guarded.finditer(text)]
        return [text[start : end - 1] for start, end in zip([0, *cuts], [*cuts, len(text) + 1], strict=True)]

    def written(self, text: str) -> str:
        """Return a guarded text as its writer wrote it."""
        return "".join(self.pieces(text))


_KNOWN: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[str, Literals]] = WeakKeyDictionary()


def _any_of(strings: list[str]) -> str:
    """Return a pattern that stands where one of some strings does, with joiners before any of its characters.

    What strings begin with alike is looked for once: some tokenizers have thousands.
    """
    if "" in strings:
        return ""  # that a string stands there is all that is asked
    rests: dict[str, list[str]] = {}
    for string in strings:
        rests.setdefault(string[0], []).append(string[1:])
    options = [f"{JOINER}*{re.escape(c)}{_any_of(found)}" for c, found in rests.items()]
    return options[0] if len(options) == 1 else f"(?:{'|'.join(options)})"


def guard(value: Any, tokenizer: PreTrainedTokenizerBase | None) -> Any:
    """Return a message's content, or whatever else a template writes, as text alone; without a tokenizer, as it is.

    A call's arguments, names and thoughts are written into a dialogue too; so every text in it is guarded.
    """
    if tokenizer is None:
        return value
    if isinstance(value, str):
        return Literals.of(tokenizer).guard(value)
    if isinstance(value, Mapping):
        return {guard(key, tokenizer): guard(found, tokenizer) for key, found in value.items()}
    return [guard(item, tokenizer) for item in value] if isinstance(value, (list, tuple)) else value


def _special(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Return a tokenizer's special tokens and the markers of its chat template.

    A token that was added as an ordinary one is content where it has a closing one, as ``<think>`` has, or where the
    template does not write it; else it opens or closes turns.
    """
    opening, *rest = rendered_probe(tokenizer).split(PROBE)
    ordinary = {str(token) for token in tokenizer.added_tokens_decoder.values() if not token.special}
    pairs = Counter(token.replace("/", "", 1) for token in ordinary)
    turns = {*MARKER.findall(opening), str(tokenizer.convert_ids_to_tokens(Ends.of(tokenizer).closing))}
    for marker in MARKER.findall(" ".join(rest)):
        bare = marker.replace("/", "", 1)
        if pairs[bare] < 2 or bare in turns:
            turns.add(marker)
    return {*written_tokens(tokenizer)} - ordinary | turns


def raw_rows(
    rows: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, how: How, source: str
) -> list[dict[str, Any]]:
    """Say what special-token strings are in rows that are raw text.

    With ``auto`` they are tokens in a row whose prompt begins with one (a start token, the opening of a turn), as a
    dialogue does that a template wrote; elsewhere only an end token at the very end of a response is.

    Args:
        rows: clean rows of text.
        tokenizer: the model's.
        how: what they are.
        source: what to call the data in the one line that counts them.
    """
    literals, counts = Literals.of(tokenizer), Counter[str]()
    begins = openings(tokenizer)
    written, start = written_tokens(tokenizer), _start_token(tokenizer)
    ends = tuple(token for token, number in written.items() if number in Ends.of(tokenizer).ids)
    own = re.compile("|".join(map(re.escape, literals.strings & written.keys())))

    def opened(text: str) -> str:  # a blank before the start token would hide it from who doubles none
        return literals.keep(text.lstrip() if start and text.lstrip().startswith(start) else text)

    def going_on(text: str) -> str:
        if not start or not text.lstrip().startswith(start):
            return literals.keep(text)
        counts[STARTED] += 1
        return literals.keep(text.lstrip().removeprefix(start))

    def before_end(text: str) -> int:
        body = text.rstrip()
        return len(body) - max((len(end) for end in ends if body.endswith(end)), default=0)

    def response(text: str) -> str:
        at = before_end(text)
        return literals.guard(text[:at]) + text[at:]

    def read(row: dict[str, Any]) -> dict[str, Any]:
        texts = [row["prompt"], *_responses(row)]
        if not any(own.search(text) or JOINER in text for text in texts):
            return row
        if how == "tokens" or (how == "auto" and row["prompt"].lstrip().startswith(begins)):
            read_as, changed = "tokens", _changed(row, opened, going_on)
        else:
            read_as, changed = "text", _changed(row, literals.guard, response if how == "auto" else literals.guard)
        # An end token at the very end alone is no news.
        if own.search(texts[0]) or any(own.search(text[: before_end(text)]) for text in texts[1:]):
            counts[read_as] += 1
        return changed

    found = [read(row) for row in rows]
    if started := counts.pop(STARTED, 0):
        logger.warning("%s: %d responses begin with the start token %s; it is cut off", source, started, start)
    if counts:
        logger.warning(
            "%s: special-token strings are read as %s; --special-tokens changes that",
            source,
            " and ".join(f"{read_as} in {n} of {len(rows)} rows" for read_as, n in sorted(counts.items())),
        )
    return found


def openings(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Return what a text begins with that a chat template wrote: special tokens, or what opens the model's own."""
    return (*Literals.of(tokenizer).strings, *_opening(tokenizer))


def own_openings(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Return what a text begins with that the model's own chat template may have written."""
    return (*written_tokens(tokenizer), *_opening(tokenizer))


def _opening(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    before = rendered_probe(tokenizer).partition(PROBE)[0].strip()
    return [before] if before else []


def _start_token(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the start token, if the tokenizer puts one before every text and it is not an end token too."""
    found = tokenizer("a", verbose=False)["input_ids"][:1]
    opens = found == [tokenizer.bos_token_id] and found[0] not in Ends.of(tokenizer).ids
    return str(tokenizer.bos_token) if opens else None


STARTED = "responses that begin with the start token"
FIELDS = ("chosen", "rejected", "response")


def _responses(row: Mapping[str, Any]) -> list[str]:
    return [*(row[name] for name in FIELDS if row.get(name) is not None), *(row.get("responses") or ())]


def _changed(row: dict[str, Any], prompt: Any, answer: Any) -> dict[str, Any]:
    """Return a row with its texts changed."""
    changed = {**row, "prompt": prompt(row["prompt"])}
    changed |= {name: answer(row[name]) for name in FIELDS if row.get(name) is not None}
    if row.get("responses") is not None:
        changed["responses"] = [answer(text) for text in row["responses"]]
    return changed
