"""One exact world for all tests of a process: its base model, an experiment in it, and everything enumerated."""

from __future__ import annotations

import pytest

from preflab.eval.conformance.exact import Exact
from preflab.eval.pipeline.session import Session


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """Where the base model is kept."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def session(tmp_path_factory, cache):
    """The conformance recipe's settings, less steps."""
    folder = tmp_path_factory.mktemp("run")
    return Session({"world": "exact", "output": str(folder), "cache": str(cache)})


@pytest.fixture(scope="session")
def experiment(session):
    """The exact world, opened with the adapters of the recipe."""
    return session.open()


@pytest.fixture(scope="session")
def exact(experiment):
    """Every response, its reward and its reference probability."""
    return Exact(experiment)
