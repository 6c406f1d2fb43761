"""Tokenizers, generation settings and chat templates from elsewhere."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.faults.cases import Case, Content, files, lines, refused, said
from benchmarks.faults.foreign import DATA, Change, as_folder, base, both, gone, judged, remote, write
from benchmarks.faults.kit import SPECIALS, text_rows


def cases(seed: int) -> Iterator[Case]:
    """Yield every fault of what turns messages into tokens, and ends them."""
    yield from tokenizers()
    yield from generation()
    yield from templates()


# ---- tokenizer, generation_config.json ------------------------------------------------------------

TOKENIZER, SETTINGS = "tokenizer.json", "tokenizer_config.json"


def settings(**values: Any) -> Change:
    """Return what changes tokenizer_config.json."""

    def change(model: Path) -> None:
        path = model / SETTINGS
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def added(*tokens: str) -> Change:
    """Return what adds tokens for which the model has no embeddings."""

    def change(model: Path) -> None:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(model)
        tokenizer.add_special_tokens({"additional_special_tokens": [*SPECIALS[3:], *tokens]})
        tokenizer.save_pretrained(model)

    return change


def tokenizers() -> Iterator[Case]:
    """Yield tokenizers that are missing, damaged, or not the model's."""
    for what, content in {
        "empty": "",
        "cut": '{"version": "1.0", "mod',
        "a list": "[]",
        "null": "null",
        "an object": "{}",
        "zeros": bytes(100),
        "a web page": "<html></html>",
        "nested": '{"a":' * 50_000,
    }.items():
        yield base(f"tokenizer file/{what}", write(TOKENIZER, content), refused("tokenizer|model"))
        yield base(f"tokenizer settings/{what}", write(SETTINGS, content), (*refused("tokenizer|model"), *said()))
    yield base("tokenizer file/none", both(gone(TOKENIZER), gone(SETTINGS)), refused("tokenizer"))
    yield base("tokenizer file/a folder", as_folder(TOKENIZER), refused("tokenizer|model"))
    yield judged("tokenizer file/none", both(gone(TOKENIZER), gone(SETTINGS)), refused("tokenizer"))
    yield judged("tokenizer file/cut", write(TOKENIZER, '{"version": "1.0", "mod'), refused("tokenizer|model"))
    for what, values in {
        "no end token": {"eos_token": None},
        "an end token of no such text": {"eos_token": "<|none|>"},
        "a number as end token": {"eos_token": 7},
        "a list as end token": {"eos_token": ["</s>"]},
        "a template that is a number": {"chat_template": 7},
        "a template that is a list": {"chat_template": [1]},
    }.items():
        right = (*refused("token|template"), *(said() if "template" in what or what == "a list as end token" else ()))
        yield base(f"tokenizer settings/{what}", settings(**values), right)
    yield base(
        "tokenizer settings/code of its own",
        remote(SETTINGS, "AutoTokenizer"),
        (*said(), *refused("tokenizer|model|trust")),
    )
    words = [{**row, "chosen": row["chosen"] + "<|new|>"} for row in text_rows()]
    for what, options in {
        "in the data": ("--dataset", "new.jsonl"),
        "in the template": ("--chat-template", "t.jinja", "--dataset", "kit/chat.jsonl"),
    }.items():
        # Raw text that no template wrote: the string is text, which has embeddings.
        as_text = said("special-token strings", "text") if what == "in the data" else ()
        case = base(
            f"tokenizer/a token without an embedding {what}",
            added("<|new|>"),
            (*refused("320|<|new|>"), *as_text),
            *options,
        )
        more = files(
            {"new.jsonl": lines(words), "t.jinja": "{% for m in messages %}<|new|>{{ m['content'] }}{% endfor %}"}
        )
        yield Case(case.name, case.command, case.right, _then(case.make, more))


def _then(*makes: Callable[[Path], Any]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for one in makes:
            one(folder)

    return make


def generation() -> Iterator[Case]:
    """Yield generation_config.json that is damaged, or names ends that are no tokens."""
    file = "generation_config.json"
    for what, content in {
        "an end of no embedding": '{"eos_token_id": [2, 99999]}',
        "a negative end": '{"eos_token_id": [2, -5]}',
        "words as ends": '{"eos_token_id": "</s>"}',
        "a half as end": '{"eos_token_id": 1.5}',
        "nulls as ends": '{"eos_token_id": [null]}',
        "a mapping as end": '{"eos_token_id": {"a": 1}}',
        "true as end": '{"eos_token_id": true}',
    }.items():
        yield base(f"generation/{what}", write(file, content), refused("eos_token_id|end token|generation"))
    for what, content in {
        "empty": "",
        "cut": '{"eos',
        "a list": "[]",
        "nested": '{"a":' * 50_000,
        "zeros": bytes(9),
    }.items():
        yield base(f"generation file/{what}", write(file, content), refused("generation|model"))
    for what, content in {
        "two ends": '{"eos_token_id": [2, 4]}',
        "no end": "{}",
        "null as end": '{"eos_token_id": null}',
        "an unknown field": '{"no_such_field": 1}',
    }.items():
        yield base(f"generation/odd but right: {what}", write(file, content), said())


# ---- chat templates -------------------------------------------------------------------------------

TEMPLATES: dict[str, Content] = {
    "a syntax error": "{% for m in messages %}{{ m['content'] }",
    "an unknown tag": "{% no_such_tag %}",
    "an unknown filter": "{{ messages | no_such_filter }}",
    "an unknown function": "{{ no_such_function(messages) }}",
    "an unknown attribute": "{{ messages[0].no.such.attribute }}",
    "a refusal": "{{ raise_exception('Only tools are spoken to') }}",
    "a division by zero": "{{ 1 / 0 }}",
    "a sum of text and number": "{{ 1 + 'a' }}",
    "a loop of a billion": "{% for i in range(1000000000) %}a{% endfor %}",
    "loops in loops": "{% for i in range(90000) %}{% for j in range(90000) %}{{ '' }}{% endfor %}{% endfor %}a",
    "text without end": "{{ 'a' * 10000000000 }}",
    "a number without end": "{{ 10 ** 10 ** 10 }}",
    "a way out of the sandbox": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "a file of the machine": "{% include '/etc/passwd' %}",
    "a macro of itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "nested blocks": "{% if true %}" * 3000 + "a" + "{% endif %}" * 3000,
    "nothing": "",
    "blanks": "  \n",
    "the same for all": "Say something.",
    "the roles alone": "{% for m in messages %}{{ m['role'] }}\n{% endfor %}",
    "not UTF-8": b"{{ messages }}\xff",
    "zeros": bytes(100),
    "UTF-16": "{{ messages }}".encode("utf-16"),
    "a web page": "<!DOCTYPE html><html><body>Not Found</body></html>",
    "a folder": os.mkdir,
    "an endless pipe": os.mkfifo,
}


def templates() -> Iterator[Case]:
    """Yield chat templates that fail, never end, or say nothing of what is said."""
    given = ("--model", "kit/model", *DATA, "--dataset", "kit/chat.jsonl", "--chat-template", "t.jinja")
    for what, content in TEMPLATES.items():
        yield Case(
            f"models/template/{what}", ("sft.py", *given), refused("template|t.jinja"), files({"t.jinja": content})
        )
    for what in ("a syntax error", "an unknown function", "a refusal", "loops in loops", "the same for all"):
        change = write("chat_template.jinja", str(TEMPLATES[what]))
        yield base(
            f"template of the tokenizer/{what}", change, refused("template"), "--dataset", "kit/chat.jsonl", kind="chat"
        )
