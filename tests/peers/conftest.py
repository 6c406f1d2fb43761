"""Bases of random weights that read any text, each with a reward model and a policy on it, and pairs to judge.

``text`` has no chat template, and its tokenizer puts a start token before every text. ``chatml`` pads with its end
token, as SmolLM2 and Qwen do: its reward is read one token before the end. ``zephyr`` has a template that writes no
start token, and a tokenizer that adds one to texts. All count positions on a base other than the library's default.
"""

from __future__ import annotations

import gzip
import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from peers import LORA, write_lines
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from preflab.disk.files import read_object, write_json
from preflab.eval.exports.folders import for_older
from preflab.experiment.saving import save_classifier_tokenizer
from preflab.model.base import load_base
from preflab.model.roles import Roles
from preflab.tokens.endings import Ends

PAIRS = 128
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
KINDS = {
    "text": {"template": None, "eos_token": "</s>", "pads": False, "starts": True},
    "chatml": {"template": CHATML, "eos_token": "<|im_end|>", "pads": True, "starts": False},
    "zephyr": {"template": ZEPHYR, "eos_token": "</s>", "pads": False, "starts": True},
}
SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
WORDS = ["the", "a", "my", "bread", "tea", "rain", "is", "cold", "red", "and", "so", "you", "we", "make", "why", "how"]


@dataclass(frozen=True)
class Kind:
    """A base with adapters on it, and what was saved of them."""

    name: str
    base: Path
    reward: Path
    policy: Path
    tokenizer: PreTrainedTokenizerFast
    pairs: Path


def said(generator, low, high):
    picked = [WORDS[i] for i in torch.randint(len(WORDS), (int(torch.randint(low, high, (), generator=generator)),))]
    return " ".join(picked).capitalize() + "."


def generated(count):
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    return [
        {
            "prompt": f"\n\nHuman: {said(generator, 3, 12)}\n\nAssistant:",
            "chosen": f" {said(generator, 2, 25)}",
            "rejected": f" {said(generator, 2, 25)}",
        }
        for _ in range(count)
    ]


@pytest.fixture(scope="session")
def pairs(tmp_path_factory) -> Path:
    """Pairs of dialogues as text: real ones, if ``PREFLAB_PEERS_PAIRS`` names a file of them, else made-up ones."""
    source, rows = os.environ.get("PREFLAB_PEERS_PAIRS"), generated(PAIRS)
    if source:
        with (gzip.open if source.endswith(".gz") else open)(source, "rt", encoding="utf-8") as file:
            found = map(json.loads, file)
            rows = [row for row in found if max(map(len, (row["prompt"], row["chosen"], row["rejected"]))) < 900][
                :PAIRS
            ]
    rows = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in rows]
    return write_lines(tmp_path_factory.mktemp("data") / "pairs.jsonl", rows)


def make_tokenizer(texts, *, template, eos_token, pads, starts):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    if starts:
        pieces = [("<s>", tokenizer.token_to_id("<s>"))]
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=pieces
        )
    named = {"unk_token": "<unk>", "eos_token": eos_token, **({"bos_token": "<s>"} if starts else {})}
    named |= {"pad_token": eos_token} if pads else {}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template, **named)


@pytest.fixture(scope="session", params=list(KINDS))
def kind(request, pairs, tmp_path_factory) -> Kind:
    folder, shape = tmp_path_factory.mktemp(request.param), KINDS[request.param]
    rows = [json.loads(line) for line in pairs.read_text(encoding="utf-8").split("\n") if line]
    tokenizer = make_tokenizer([row["prompt"] + row["chosen"] for row in rows], **shape)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        rope_theta=50.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    write_json(folder / "base" / "config.json", for_older(read_object(folder / "base" / "config.json")))
    roles = Roles(load_base(str(folder / "base"), LORA, device="cpu"), LORA, ("policy", "reward"))
    with torch.no_grad():
        for role in ("policy", "reward"):
            for parameter in roles.parameters_of(role):
                parameter.add_(0.2 * torch.randn(parameter.shape))
        roles.head("reward").mean.fill_(0.3)
        roles.head("reward").std.fill_(2.0)
    for role in ("policy", "reward"):
        roles.save(role, folder / role)
    chat = tokenizer.chat_template is not None
    save_classifier_tokenizer(roles, tokenizer, Ends.of(tokenizer).ids, folder / "reward", chat=chat)
    return Kind(request.param, folder / "base", folder / "reward", folder / "policy", tokenizer, pairs)
