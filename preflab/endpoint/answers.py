"""Paid answers, each a file of its own before anybody uses it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from preflab.disk.digests import digest
from preflab.errors import UserError


class Answer(NamedTuple):
    """A reply and what it cost.

    Attributes:
        text: the reply.
        finished: whether the model ended it by itself.
        prompt_tokens: tokens read, 0 where the endpoint does not say.
        completion_tokens: tokens written.
        model: what the endpoint calls the model that answered.
    """

    text: str
    finished: bool
    prompt_tokens: int
    completion_tokens: int
    model: str


TYPES = (str, bool, int, int, str)


def _digest(answer: Answer) -> str:
    return digest(json.dumps(answer))


class AnswerCache:
    """Answers by request, shared by all processes that name the folder.

    Args:
        folder: made if it does not exist.
        option: what the option is called that names it.

    Raises:
        UserError: if it cannot be written.
    """

    def __init__(self, folder: Path, option: str) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{option} {folder} cannot be written: {error}") from None

    @staticmethod
    def key(url: str, body: Mapping[str, Any]) -> str:
        """Return what tells one request from another: all that the endpoint gets, the key apart."""
        return digest(json.dumps([url, body], sort_keys=True))

    def load(self, key: str) -> Answer | None:
        """Return the stored answer; None if there is none, or something spoilt it."""
        try:
            kept = json.loads(self._path(key).read_text(encoding="utf-8"))
            answer = Answer(**kept["answer"])
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return None
        # Older answers bear no digest.
        whole = kept.get("sha256") in (None, _digest(answer))
        return answer if whole and all(type(x) is kind for x, kind in zip(answer, TYPES, strict=True)) else None

    def store(self, key: str, body: Mapping[str, Any], answer: Answer) -> None:
        """Keep an answer and, for a reader's sake, what was asked; on disk when this returns."""
        path = self._path(key)
        path.parent.mkdir(exist_ok=True)
        # A temporary name of its own: two processes may store the same answer at once.
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            try:
                json.dump({"request": body, "answer": answer._asdict(), "sha256": _digest(answer)}, file)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                Path(file.name).unlink()
                raise
        Path(file.name).replace(path)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"
