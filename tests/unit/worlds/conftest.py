"""A model whose tokens are bytes, and rows in groups."""

from __future__ import annotations

import json
import random

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from preflab.worlds import WorldConfig, open_world


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a byte-level tokenizer (one token per byte) and a config; the world needs no weights."""
    folder = tmp_path_factory.mktemp("model")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    LlamaConfig(vocab_size=len(vocabulary), max_position_embeddings=512).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def grouped(tiny_model_path, tmp_path_factory):
    """Return a config of 160 prompts, each in the group that it is given."""

    def make(group):
        draw = random.Random(0)

        def words():
            return " ".join(f"word{draw.randrange(24)}" for _ in range(draw.randint(1, 6)))

        rows = [
            {
                "prompt": f"word{n % 16} word{n // 16}",
                "chosen": f" {words()}",
                "rejected": f" {words()}",
                "group": f"g{group(n, draw)}",
            }
            for n in range(160)
        ]
        path = tmp_path_factory.mktemp("rows") / "pairs.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return WorldConfig(model=str(tiny_model_path), dataset=str(path), max_prompt_tokens=16, max_response_tokens=8)

    return make


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """Return the world of a module's own ``config``."""
    return open_world(config, tmp_path_factory.mktemp("cache"))
