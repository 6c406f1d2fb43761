"""Settings of an endpoint as judge."""

from __future__ import annotations

from dataclasses import dataclass

from preflab.endpoint.settings import EndpointOptions


@dataclass(frozen=True)
class EndpointConfig(EndpointOptions, prefix="judge_"):
    """An OpenAI-compatible endpoint as judge (``--judge endpoint``)."""
