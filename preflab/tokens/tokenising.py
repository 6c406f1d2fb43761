"""Text becomes token ids as its writer meant it: special-token strings, start tokens, and ids that a model knows.

`preflab.data.encoding` says what is tokenised for prompts and responses; this says how.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from preflab.errors import UserError
from preflab.tokens.endings import embedding_rows, written_tokens
from preflab.tokens.literals import JOINER, Literals

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AT_ONCE = 2048  # texts: what a tokenizer gives along with the ids takes many times their memory
ANCHORS = ("\n", "a", "\u3002")  # what a piece may follow without growing together with it


class _Numbers(dict[int, int]):
    """Numbers to themselves."""

    def __missing__(self, number: int) -> int:
        self[number] = number
        return number


class Tokeniser:
    """A tokenizer that reads guarded strings as text and writes no start token twice.

    Args:
        tokenizer: the library's.
        literals: which special-token strings are guarded in the texts; those of another tokenizer, where that one
            wrote them.

    Attributes:
        rows: how many ids the model beside the tokenizer has an embedding for; None where that is not known.
        closes: whether the tokenizer puts the end token behind every text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, literals: Literals) -> None:
        self.tokenizer, self.literals = tokenizer, literals
        self.rows = embedding_rows(tokenizer.name_or_path)
        self._numbers, self._used = _Numbers(), set[int]()
        self._doubled: list[Any] | None = None
        self.closes = False
        start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
        with_special, without = self(["a"], True)[0], self(["a"], False)[0]
        self.closes = with_special[-1:] == [end] and without[-1:] != [end]
        # Most put their start token before every text, one that begins with it included.
        self._doubled = [start, start] if with_special[:1] == [start] != without[:1] else None

    def __call__(self, texts: list[str], special: bool) -> list[list[int]]:
        """Return the ids of texts, with the tokenizer's own start and end or without.

        Raises:
            UserError: as `check_rows` does.
        """
        found: list[list[int]] = []
        for start in range(0, len(texts), AT_ONCE):
            found += self._part(texts[start : start + AT_ONCE], special)
        return found

    def _part(self, texts: list[str], special: bool) -> list[list[int]]:
        guarded = {i: self._pieces(text) for i, text in enumerate(texts) if JOINER in text}
        plain = [guarded[i][0] if i in guarded else text for i, text in enumerate(texts)]
        options = {"return_attention_mask": False, "return_token_type_ids": False}
        encoded = self.tokenizer(plain, add_special_tokens=special, verbose=False, **options)["input_ids"]
        # One object for each number: a tokenizer makes a new one for every token, four times the size of a list's
        # place for it.
        found = [list(map(self._numbers.__getitem__, ids)) for ids in encoded]
        for i, pieces in guarded.items():
            found[i] = self._joined(found[i], pieces[1:], special)
        if special and self._doubled is not None:
            found = [self._once(ids) if ids[:2] == self._doubled else ids for ids in found]
        if self.rows is None:
            self._used |= {token for ids in found for token in ids}
        elif self.rows < len(self.tokenizer):
            self.check_rows(self.rows, {token for ids in found for token in ids})
        return found

    def _once(self, ids: list[int]) -> list[int]:
        """Return the ids of a text with one start token, however many it begins with."""
        at = 0
        while ids[at : at + 2] == self._doubled:
            at += 1
        return ids[at:] if at else ids

    def check_rows(self, rows: int, used: Collection[int] | None = None) -> None:
        """Refuse token ids beyond so many embeddings, before a model meets them.

        Args:
            rows: how many embeddings there are.
            used: ids; by default all that were found while `rows` was not known.

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
        closing = [self.tokenizer.eos_token_id] if self.closes and special else []
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
