"""A client for OpenAI-compatible chat endpoints: many questions at once, no answer paid for twice."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preflab.endpoint.answers import Answer, AnswerCache
from preflab.endpoint.rubric import Messages
from preflab.endpoint.settings import Endpoint
from preflab.endpoint.wire import RefusedError, TransientError, Wire
from preflab.errors import UserError
from preflab.progress import tracked

if TYPE_CHECKING:
    import httpx2

LONGEST_PAUSE = 600.0  # seconds; who wants a longer one has a quota that no waiting inside a run mends
REFUSALS = 8  # so many, and no answer yet: it is the settings, not the texts


class Pace:
    """Spaces requests evenly, over all threads.

    Args:
        per_minute: None for no limit.
        sleep: waits for some seconds, or until the work is called off.
        clock: seconds, monotonic.
    """

    def __init__(
        self, per_minute: float | None, sleep: Callable[[float], object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.gap = 60.0 / per_minute if per_minute else 0.0
        self.sleep, self.clock = sleep, clock
        self.next, self.lock = -float("inf"), threading.Lock()

    def wait(self) -> None:
        """Return when the next request may be sent."""
        with self.lock:
            now = self.clock()
            at = max(now, self.next)
            self.next = at + self.gap
        if at > now:
            self.sleep(at - now)

    def pause(self, seconds: float) -> None:
        """Let no request start for so long."""
        with self.lock:
            self.next = max(self.next, self.clock() + seconds)


class ChatClient:
    """Asks an endpoint, with retries, a rate limit and a cache.

    Args:
        config: url and model must be set.
        sleep: in place of waiting, for tests.

    Raises:
        UserError: if url or model are missing, the key is none or the cache cannot be written.
    """

    def __init__(self, config: Endpoint, *, sleep: Callable[[float], object] | None = None) -> None:
        self.config, self.wire = config, Wire(config)
        self.cache = AnswerCache(Path(config.cache).expanduser(), f"{config.prefix}cache")
        self._off = threading.Event()  # set: the work is called off, start nothing more
        self._pace = Pace(config.requests_per_minute, sleep or self._off.wait)
        self._lock = threading.Lock()
        self.sent = self.cached = self.refused = 0
        self.paid = 0.0
        self.used: dict[str, Answer] = {}  # by cache key: an answer used twice was paid for once

    def ask(self, conversations: Sequence[Messages], title: str = "endpoint") -> list[Answer | None]:
        """Return the reply to each conversation; None where the endpoint refuses its text.

        Raises:
            UserError: if the endpoint cannot be reached, refuses the key or the settings, or stays faulty; answers
                that came before are kept.
        """
        bodies = [self._body(messages) for messages in conversations]
        keys = [self.cache.key(self.wire.url, body) for body in bodies]
        wanted = dict(zip(keys, bodies, strict=True))
        known = {key: answer for key in wanted if (answer := self.cache.load(key))}
        self.cached += len(known)
        self.used |= known
        missing = [key for key in wanted if key not in known]
        if missing:
            with self.wire.open() as client, self._pool() as pool:
                futures = [pool.submit(self._work, client, key, wanted[key], len(missing)) for key in missing]
                for future in tracked(as_completed(futures), title, "answer", len(futures)):
                    future.result()
        return [self.used.get(key) for key in keys]

    def costs(self) -> dict[str, Any]:
        """Return counts and costs of all answers used so far, whenever they were paid for.

        ``requests`` counts what this client sent, ``from_cache`` the answers that it found there; ``cost`` is None
        without prices.
        """
        prompt = sum(answer.prompt_tokens for answer in self.used.values())
        completion = sum(answer.completion_tokens for answer in self.used.values())
        return {
            "answers": len(self.used),
            "requests": self.sent,
            "from_cache": self.cached,
            "refused": self.refused,
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "cost": self.config.price(prompt, completion),
            "models": sorted({answer.model for answer in self.used.values()}),
        }

    def _body(self, messages: Messages) -> dict[str, Any]:
        options = {"temperature": self.config.temperature, "max_tokens": self.config.max_tokens}
        given = {name: value for name, value in options.items() if value is not None}
        return {"model": self.wire.model, "messages": messages, **given}

    @contextmanager
    def _pool(self) -> Iterator[ThreadPoolExecutor]:
        """Threads that, on an error or Ctrl-C, finish what was sent (it is paid for) and start nothing more."""
        self._off.clear()
        pool = ThreadPoolExecutor(self.config.concurrency)
        try:
            yield pool
        except BaseException:
            self._off.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def _work(self, client: httpx2.Client, key: str, body: dict[str, Any], total: int) -> None:
        """Answer, or call everything off: other threads would send more before the main one heard of an error."""
        try:
            self._answer(client, key, body, total)
        except BaseException:
            self._off.set()
            raise

    def _answer(self, client: httpx2.Client, key: str, body: dict[str, Any], total: int) -> None:
        """Ask until there is an answer, or a refusal."""
        problem = ""
        for attempt in range(self.config.max_retries + 1):
            if attempt:
                # Jitter, so that requests that failed together do not come back together.
                self._pace.sleep(min(60.0, 2.0 ** (attempt - 1)) * (0.5 + random.random() / 2))
            self._pace.wait()
            if self._off.is_set():
                return
            self._spend()
            try:
                answer = self.wire.send(client, body)
            except RefusedError as refusal:
                return self._refuse(str(refusal), total)
            except TransientError as fault:
                problem = str(fault)
                self._heed(fault.wait, problem)
            else:
                self.cache.store(key, body, answer)
                with self._lock:
                    self.used[key] = answer
                    self.paid += self.config.price(answer.prompt_tokens, answer.completion_tokens) or 0.0
                return
        raise UserError(
            f"{self.wire.name} gave no answer in {self.config.max_retries + 1} tries; the last problem: {problem}. "
            "Run the same command again to go on: answers so far are kept"
        )

    def _spend(self) -> None:
        """Count one more request; those under way may take a budget of cost past its end by as many answers."""
        budget, kind = self.config.budget, self.config.budget_kind
        with self._lock:
            if budget is not None and (self.sent if kind == "requests" else self.paid) >= budget:
                raise UserError(
                    f"the budget of the {self.config.role} endpoint, {budget:g} ({kind}), is spent. Answers so far are "
                    f"kept, and so is what was finished: run the same command again, perhaps with another "
                    f"{self.config.flag('budget')}, to go on"
                )
            self.sent += 1

    def _heed(self, pause: float, problem: str) -> None:
        """Hold all requests back for as long as the endpoint wants."""
        if pause > LONGEST_PAUSE:
            raise UserError(
                f"{self.wire.name} wants a pause of {pause:.0f} s ({problem}). Run the same command "
                "again then: answers so far are kept"
            )
        self._pace.pause(pause)

    def _refuse(self, problem: str, total: int) -> None:
        with self._lock:
            self.refused += 1
            hopeless = not self.used and self.refused >= min(REFUSALS, total)
        if hopeless:
            raise UserError(f"{self.wire.name} refuses every request: {problem}")
