"""What all cases share: a toy model with a byte-level vocabulary, ordinary rows, settings that make a run short."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.faults.cases import Case, Row, lines, said, words

if TYPE_CHECKING:
    from benchmarks.faults.runner import Answer

NAMES = ("Tom", "Lily", "Sam", "Mia", "Ben", "Zoe", "Max", "Ann")
THINGS = ("ball", "boat", "cat", "kite", "tree")
ROWS = len(NAMES) * len(THINGS)
BAD = (4, 17)
"""Which rows of a table are damaged, counted from 0."""

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIALS = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]

TINY = """threads: 1
max_prompt_tokens: 200
max_response_tokens: 24
eval_prompts: 8
eval_pairs: 4
baseline_draws: 1
oracle_samples: 0
lora_rank: 2
sft: &stage
  max_steps: 1
  per_device_train_batch_size: 2
reward: *stage
pair: *stage
ranking: *stage
single: *stage
demonstration: *stage
sampled:
  max_steps: 1
  per_device_train_batch_size: 2
  rollout_prompts: 2
  rollout_epochs: 1
"""


def question(i: int) -> str:
    """Return the i-th question."""
    return f"What did {NAMES[i % len(NAMES)]} do with the {THINGS[i // len(NAMES) % len(THINGS)]}?"


def answer(i: int, good: bool) -> str:
    """Return a better or a worse answer to it."""
    name, thing = NAMES[i % len(NAMES)], THINGS[i // len(NAMES) % len(THINGS)]
    return f"{name} found the {thing}." if good else f"The {thing} was bad."


def prompt(i: int) -> str:
    """Return the i-th question as a dialogue in text."""
    return f"Human: {question(i)}\n\nAssistant:"


def text_rows(count: int = ROWS) -> list[Row]:
    """Return rows ``prompt, chosen, rejected``."""
    return [
        {"prompt": prompt(i), "chosen": " " + answer(i, True), "rejected": " " + answer(i, False)} for i in range(count)
    ]


def turn(role: str, content: object) -> Row:
    """Return a message."""
    return {"role": role, "content": content}


def message_rows(count: int = ROWS) -> list[Row]:
    """Return the same rows, as messages."""
    return [
        {
            "prompt": [turn("user", question(i))],
            "chosen": [turn("assistant", answer(i, True))],
            "rejected": [turn("assistant", answer(i, False))],
        }
        for i in range(count)
    ]


def implicit_rows(count: int = ROWS) -> list[Row]:
    """Return the same rows, as two whole dialogues in text."""
    return [
        {name: prompt(i) + " " + answer(i, name == "chosen") for name in ("chosen", "rejected")} for i in range(count)
    ]


def ranked_rows(count: int = ROWS) -> list[Row]:
    """Return the same rows as rankings of three."""
    return [
        {"prompt": prompt(i), "responses": [" " + answer(i, True), " It slept.", " " + answer(i, False)]}
        for i in range(count)
    ]


def single_rows(count: int = ROWS) -> list[Row]:
    """Return the same rows unpaired, two responses to each prompt."""
    return [
        {"prompt": prompt(i), "completion": " " + answer(i, good), "label": good}
        for i in range(count)
        for good in (True, False)
    ]


def answer_rows() -> list[Row]:
    """Return a response to every prompt."""
    return [{"prompt": prompt(i), "response": " " + answer(i, True)} for i in range(ROWS)]


def without(rows: Sequence[Row], bad: Sequence[int] = BAD) -> list[Row]:
    """Return the rows that are not damaged."""
    return [row for i, row in enumerate(rows) if i not in bad]


def make_tokenizer(template: str | None = None) -> Any:
    """Return a byte-level BPE tokenizer of a few hundred tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator((row["prompt"] + row["chosen"] + row["rejected"] for row in text_rows()), trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    made.chat_template = template
    return made


def make_model(folder: Path, template: str | None = None, *, labels: int | None = None, seed: int = 0) -> None:
    """Save a random two-layer Llama and its tokenizer; with `labels` a classifier with so many."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    config = LlamaConfig(
        vocab_size=320,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if labels is None:
            model = LlamaForCausalLM(config)
            # One direction that all tokens share says "end" and ".": answers end, as those of trained models do.
            with torch.no_grad():
                model.model.embed_tokens.weight[:, 0] = 0.5
                model.lm_head.weight[[2, *make_tokenizer().encode(".", add_special_tokens=False)], 0] = 1.0
            model.save_pretrained(folder)
        else:
            config.num_labels = labels
            LlamaForSequenceClassification(config).save_pretrained(folder)
    make_tokenizer(template).save_pretrained(folder)


def make_kit(folder: Path) -> Path:
    """Make the models, the rows and the settings that cases name as ``kit/…``."""
    folder.mkdir(parents=True)
    make_model(folder / "model")
    make_model(folder / "chat", TEMPLATE)
    make_model(folder / "classifier", labels=1)
    make_model(folder / "two", labels=2)
    (folder / "pairs.jsonl").write_text(lines(text_rows()))
    (folder / "answers.jsonl").write_text(lines(answer_rows()))
    (folder / "chat.jsonl").write_text(lines(message_rows()))
    (folder / "tiny.yaml").write_text(TINY)
    (folder / "template.jinja").write_text(TEMPLATE)
    return folder


def make_runs(kit: Path, run: Callable[[Case], Answer]) -> None:
    """Train a small comparison in the kit, for its adapters and its stages, and evaluate a file of responses."""
    options = "--config kit/tiny.yaml --model kit/model --dataset kit/pairs.jsonl"
    for command in (
        f"compare.py {options} --algorithms dpo,ppo --output kit/run",
        f"evaluate.py {options} --models a=kit/answers.jsonl --output kit/evaluated",
    ):
        answer = run(Case("kit/run", words(command), said()))
        if answer.status != 0:
            raise RuntimeError(f"an ordinary run fails: {command}\n{answer.err[-2000:]}")
    for name, stage, role in (
        ("adapter", "dpo-seed0", "policy"),
        ("reward", "reward", "reward"),
        ("sft", "sft", "policy"),
    ):
        folder = next((kit / "run" / "stages").glob(f"{stage}-????????????"))
        shutil.copytree(folder / role, kit / name)
        if name == "adapter":
            shutil.copytree(folder, kit / "stage")


def begun(run: str, make: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """Return what makes a case's files after it has copied a run's stages to ``out``: they need not be made again."""

    def made(folder: Path) -> Any:
        shutil.copytree(folder / "kit" / run / "stages", folder / "out" / "stages")
        return make(folder)

    return made
