"""What several tests of the data take."""

from __future__ import annotations

import copy

import pytest
from transformers import PreTrainedTokenizerBase


@pytest.fixture
def tokenizer(tiny_tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """One whose chat template a test may set."""
    return copy.deepcopy(tiny_tokenizer)
