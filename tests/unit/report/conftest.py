"""A report that was written once."""

from __future__ import annotations

from typing import Any

import pytest
from report_fixture import comparison, samples, typed

from preflab.eval.report import write_report


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("report") / "of a run"
    return folder, write_report(typed(comparison()), samples(prompts=12), folder)
