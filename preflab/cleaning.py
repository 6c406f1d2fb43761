"""Preference data of any accepted format, cleaned: text rows that mean the same whatever they came as.

`preflab.reading` gives the raw rows, `preflab.data` splits the clean ones. TRL and transformers are
imported where they are used: checking a config needs neither.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from preflab.data import group_key, normalised
from preflab.errors import UserError
from preflab.literals import guard
from preflab.reading import UNREADABLE, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

ASSISTANT = "\n\nAssistant:"


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
    values = [row.get(name) for name in ("prompt", "chosen", "rejected", "completion")]
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

    Accepted are ``prompt, chosen, rejected``; ``chosen, rejected`` as whole dialogues; ``prompt,
    responses`` (best first, or ordered by ``rank``, 0 best); and, unpaired, ``prompt, completion, label``:
    each as text or as messages. Messages are written with the tokenizer's chat template, or as
    Human/Assistant text where it has none.

    Args:
        rows: numbered raw rows, as `read_rows` gives them.
        tokenizer: writes messages as text; None: always Human/Assistant text.
        bad_rows: drop and count unusable rows, or refuse the data.
        use_group: whether a ``group`` column decides which prompts belong together.
        source: what to call the data in messages.

    Returns:
        Rows with ``prompt``, ``chosen``, ``rejected`` (or, unpaired, ``prompt``, ``response``,
        ``desirable``), ``group`` (hash of what must not be split) and, where the data has them, ``subset``
        (else its ``source``), ``responses`` (texts, best first), ``preference`` (at least 1/2: chosen is the
        likelier one) and ``margin``; and the bad rows.

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
    if not clean and not bad:
        raise UserError(f"{source} has no usable row: it is empty")
    if not clean:
        raise UserError(
            f"{source} has no usable row: {found.summary()}. Preference data needs 'chosen' and 'rejected' "
            "(with 'prompt', or as whole dialogues), or 'prompt' and ranked 'responses', or 'prompt', 'completion' "
            "and 'label'"
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
    if len(responses) > 1 and responses[0].strip() == responses[-1].strip():
        raise _RowError("chosen equal to rejected")
    group = row.get("group") if use_group else None
    key = group_key(prompt) if group is None else normalised(str(group))
    group = hashlib.sha256(key.encode(errors="backslashreplace")).hexdigest()[:16]
    if not isinstance(prompt, str):
        prompt, responses = _render(prompt, responses, tokenizer)
    clean: Row = {"prompt": prompt, "group": group}
    named = [row[name] for name in ("subset", "source") if row.get(name) not in (None, "")]  # "": an empty CSV cell
    if named:
        clean["subset"] = str(named[0]).encode(errors="backslashreplace").decode()
    if len(responses) == 1:
        return {**clean, "response": responses[0], "desirable": _label(row)}
    strength = _strength(row)
    if strength.get("preference", 1.0) < 0.5:  # chosen is the likelier one, whichever the data name first
        responses, strength["preference"] = responses[::-1], 1 - strength["preference"]
    if row.get("responses") is not None:
        clean["responses"] = responses
    return {**clean, "chosen": responses[0], "rejected": responses[-1], **strength}


def _label(row: Row) -> bool:
    """Return whether an unpaired response is desirable."""
    if row.get("label") is None:
        raise _RowError("missing field 'label'")
    words = {"true": True, "1": True, "false": False, "0": False}  # CSV has words, some parquet files 0 and 1
    try:
        return words[str(row["label"]).strip().lower()]
    except KeyError:
        raise _RowError("label is neither true nor false") from None


def _strength(row: Row) -> dict[str, float]:
    """Return how sure (``preference``) and how strong (``margin``) a preference is, where the row says so."""
    found = {}
    for name, most in (("preference", 1.0), ("margin", math.inf)):
        if row.get(name) in (None, ""):  # an empty cell of a CSV file
            continue
        try:
            value = math.nan if isinstance(row[name], bool) else float(row[name])
        except (TypeError, ValueError, OverflowError):
            value = math.nan
        if not (0 <= value <= most and math.isfinite(value)):
            raise _RowError(f"{name} is not a number from 0 " + ("to 1" if most == 1 else "up"))
        found[name] = value
    if found.get("preference", 1.0) < 0.5 and found.get("margin"):
        raise _RowError("margin of a response that is not preferred")
    return found


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
    elif row.get("completion") is not None and row.get("chosen") is None:
        prompt, responses = _field(row, "prompt"), [_field(row, "completion")]
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
    prompt = [{**message, "content": guard(message["content"], tokenizer)} for message in prompt]
    responses = [guard(response, tokenizer) for response in responses]
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
