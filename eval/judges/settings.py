"""Settings of an endpoint as judge."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from preflab.settings.fields import option


@dataclass(frozen=True)
class EndpointConfig:
    """An OpenAI-compatible endpoint as judge (``--judge endpoint``)."""

    judge_url: str | None = option(None, "base address, such as https://api.openai.com/v1 or http://localhost:8000/v1")
    judge_model: str | None = option(None, "model that judges, by the endpoint's name for it")
    judge_key_variable: str | None = option(
        "OPENAI_API_KEY", "environment variable that holds the API key; none: send no key"
    )
    judge_temperature: float | None = option(
        0.0, "temperature of the judge; none: the endpoint's", minimum=0.0, maximum=100.0
    )
    judge_max_tokens: int | None = option(
        1024, "longest reply, in tokens; none: the endpoint's limit", minimum=16, maximum=10**7
    )
    judge_requests_per_minute: float | None = option(None, "rate limit, retries included", minimum=0.01, maximum=1e6)
    judge_concurrency: int = option(4, "requests under way at a time", minimum=1, maximum=256)
    judge_max_retries: int = option(
        6, "retries of one request after rate limits, timeouts and faults", minimum=0, maximum=1000
    )
    judge_timeout: float = option(120.0, "seconds that one request may take", minimum=0.01, maximum=86_400.0)
    judge_prompt_price: float | None = option(
        None, "price of a million prompt tokens, in any currency", minimum=0.0, maximum=1e9
    )
    judge_completion_price: float | None = option(
        None, "price of a million completion tokens", minimum=0.0, maximum=1e9
    )
    judge_cache: str = option("~/.cache/preflab/judge", "folder where answers are kept between runs")

    def __post_init__(self) -> None:
        if self.judge_key_variable is not None and not re.fullmatch(r"[A-Za-z_]\w*", self.judge_key_variable):
            # Perhaps the key itself, which no message and no record may repeat.
            raise ValueError("judge_key_variable must be the name of an environment variable, not the key")
        if self.judge_url is not None:
            try:
                parts = urlsplit(self.judge_url)
                _ = parts.port
            except ValueError as error:  # brackets or a port that are none; a message may repeat no more than the port
                raise ValueError(f"judge_url is no address: {error}") from None
            # Such an address would end up in records; the messages do not repeat it for the same reason.
            if parts.username or parts.password or parts.query or parts.fragment:
                raise ValueError("judge_url must hold no user name, password or query; see judge_key_variable")
            plain = self.judge_url.isprintable() and " " not in self.judge_url
            if parts.scheme not in ("http", "https") or not parts.hostname or not plain:
                raise ValueError("judge_url must start with http:// or https:// and name a host")
        if (self.judge_prompt_price is None) != (self.judge_completion_price is None):
            raise ValueError("give both judge_prompt_price and judge_completion_price, or neither")
