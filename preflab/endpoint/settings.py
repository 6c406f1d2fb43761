"""Settings of an endpoint, and config classes that hold them under a prefix."""

from __future__ import annotations

import dataclasses
import re
import typing
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from preflab.settings.fields import option


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible endpoint.

    Attributes:
        prefix: what the options' names begin with, for messages; ``judge_``, say.
    """

    prefix: str = ""
    url: str | None = option(None, "base address, such as https://api.openai.com/v1 or http://localhost:8000/v1")
    model: str | None = option(None, "model that answers, by the endpoint's name for it")
    key_variable: str | None = option(
        "OPENAI_API_KEY", "environment variable that holds the API key; none: send no key"
    )
    temperature: float | None = option(
        0.0, "temperature of that model; none: the endpoint's", minimum=0.0, maximum=100.0
    )
    max_tokens: int | None = option(
        1024, "longest reply, in tokens; none: the endpoint's limit", minimum=16, maximum=10**7
    )
    requests_per_minute: float | None = option(None, "rate limit, retries included", minimum=0.01, maximum=1e6)
    concurrency: int = option(4, "requests under way at a time", minimum=1, maximum=256)
    max_retries: int = option(
        6, "retries of one request after rate limits, timeouts and faults", minimum=0, maximum=1000
    )
    timeout: float = option(120.0, "seconds that one request may take", minimum=0.01, maximum=86_400.0)
    prompt_price: float | None = option(
        None, "price of a million prompt tokens, in any currency", minimum=0.0, maximum=1e9
    )
    completion_price: float | None = option(None, "price of a million completion tokens", minimum=0.0, maximum=1e9)
    budget: float | None = option(
        None,
        "what one command may spend at most (see the next); then it ends, and the same command goes on from there",
        minimum=0.0,
        maximum=1e12,
    )
    budget_kind: Literal["requests", "cost"] = option(
        "requests", "what the budget is counted in: requests, retries included, or cost, by the two prices"
    )
    cache: str = option("~/.cache/preflab/judge", "folder where answers are kept between runs")

    def __post_init__(self) -> None:
        if self.key_variable is not None and not re.fullmatch(r"[A-Za-z_]\w*", self.key_variable):
            # Perhaps the key itself, which no message and no record may repeat.
            raise ValueError(f"{self.prefix}key_variable must be the name of an environment variable, not the key")
        if self.url is not None:
            self._check_url(self.url)
        if (self.prompt_price is None) != (self.completion_price is None):
            raise ValueError(f"give both {self.prefix}prompt_price and {self.prefix}completion_price, or neither")
        if self.budget_kind == "cost" and (self.budget is None or self.prompt_price is None):
            raise ValueError(
                f"{self.prefix}budget_kind cost needs {self.prefix}budget and both prices, {self.prefix}prompt_price "
                f"and {self.prefix}completion_price"
            )

    def _check_url(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            _ = parts.port
        except ValueError as error:  # brackets or a port that are none; a message may repeat no more than the port
            raise ValueError(f"{self.prefix}url is no address: {error}") from None
        # Such an address would end up in records; the messages do not repeat it for the same reason.
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError(
                f"{self.prefix}url must hold no user name, password or query; see {self.prefix}key_variable"
            )
        if parts.scheme not in ("http", "https") or not parts.hostname or not url.isprintable() or " " in url:
            raise ValueError(f"{self.prefix}url must start with http:// or https:// and name a host")

    def flag(self, name: str) -> str:
        """Return how one of the settings is called on the command line."""
        return f"--{self.prefix}{name}".replace("_", "-")

    @property
    def answers(self) -> str:
        """Who answers: the model, and where."""
        return f"{self.model} at {self.url}"

    @property
    def role(self) -> str:
        """What the endpoint serves as, in a word."""
        return self.prefix.partition("_")[0]

    def price(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """Return what so many tokens cost; None without prices."""
        if self.prompt_price is None or self.completion_price is None:
            return None
        return (prompt_tokens * self.prompt_price + completion_tokens * self.completion_price) / 1e6


FIELDS = {field.name: field for field in dataclasses.fields(Endpoint) if field.name != "prefix"}


class EndpointOptions:
    """Base of config classes that have every setting of an endpoint among their fields, under a prefix.

    ``class JudgeOptions(EndpointOptions, prefix="judge_")`` has ``judge_url``, ``judge_model``, …, behind what it
    declares itself; what it declares under such a name stays as declared.
    """

    endpoint_prefix: typing.ClassVar[str]

    def __init_subclass__(cls, prefix: str | None = None, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        if prefix is None:  # of a class that has the settings by inheritance
            return
        cls.endpoint_prefix = prefix
        own, hints = dict(cls.__annotations__), typing.get_type_hints(Endpoint)
        for name, field in FIELDS.items():
            if prefix + name not in own:
                own[prefix + name] = hints[name]
                setattr(cls, prefix + name, dataclasses.field(default=field.default, metadata=field.metadata))
        cls.__annotations__ = own

    def __post_init__(self) -> None:
        self.endpoint()

    def endpoint(self) -> Endpoint:
        """Return the settings without their prefix.

        Raises:
            ValueError: if they contradict each other.
        """
        prefix = self.endpoint_prefix
        return Endpoint(prefix, **{name: getattr(self, prefix + name) for name in FIELDS})
