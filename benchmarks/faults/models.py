"""Models from elsewhere: weights, config, tokenizer, generation settings, chat templates."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.faults.cases import CANARY, Case, Content, Right, files, lines, refused, said
from benchmarks.faults.kit import SPECIALS, text_rows

DATA = ("--dataset", "kit/pairs.jsonl", "--config", "kit/tiny.yaml", "--output", "out")
CODE = f"import pathlib; pathlib.Path('{CANARY}').touch()\n"
Change = Callable[[Path], object]


def cases(seed: int) -> Iterator[Case]:
    """Yield every fault of a model."""
    yield from weights()
    yield from configs()
    yield from tokenizers()
    yield from generation()
    yield from templates()
    yield from no_models()


def changed(change: Change, kind: str = "model") -> Callable[[Path], None]:
    """Return what copies a model of the kit as ``model`` and changes the copy."""

    def make(folder: Path) -> None:
        shutil.copytree(folder / "kit" / kind, folder / "model")
        change(folder / "model")

    return make


def base(name: str, change: Change, right: tuple[Right, ...], *more: str, kind: str = "model") -> Case:
    """Return a case in which the changed model is the base of everything."""
    return Case(f"models/{name}", ("sft.py", "--model", "model", *DATA, *more), right, changed(change, kind))


def judged(name: str, change: Change, right: tuple[Right, ...]) -> Case:
    """Return a case in which the changed model is a policy that is evaluated beside an ordinary base."""
    command = ("evaluate.py", "--models", "other=model", "--model", "kit/model", *DATA)
    return Case(f"models/{name}, evaluated", command, right, changed(change))


def scoring(name: str, change: Change, right: tuple[Right, ...], role: str) -> Case:
    """Return a case in which the changed classifier gives rewards."""
    command = ("evaluate.py", "--models", "a=kit/adapter", role, "model", "--model", "kit/model", *DATA)
    return Case(f"models/{name}, {role}", command, right, changed(change, "classifier"))


# ---- weights --------------------------------------------------------------------------------------

WEIGHTS = "model.safetensors"
QUERY, EMBEDDING, HEAD, NORM = (
    "model.layers.0.self_attn.q_proj.weight", "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight",
)  # fmt: skip
LAST = "model.layers.1.mlp.up_proj.weight"


def tensors(change: Callable[[dict[str, Any]], object]) -> Change:
    """Return what changes the weights by name."""

    def write(model: Path) -> None:
        from safetensors.torch import load_file, save_file

        state = load_file(model / WEIGHTS)
        change(state)
        save_file({name: value.contiguous() for name, value in state.items()}, model / WEIGHTS, {"format": "pt"})

    return write


def put(name: str, value: Callable[[Any], Any]) -> Change:
    """Return what replaces one tensor."""
    return tensors(lambda state: state.update({name: value(state[name])}))


def _poisoned(bad: float) -> Callable[[Any], Any]:
    def value(tensor: Any) -> Any:
        tensor.view(-1)[3] = bad
        return tensor

    return value


def _rename(old: str, new: str) -> Change:
    def change(state: dict[str, Any]) -> None:
        for name in list(state):
            state[name.replace(old, new)] = state.pop(name)

    return tensors(change)


TENSORS: dict[str, tuple[Change, str]] = {
    **{f"without {name}": (tensors(lambda state, name=name: state.pop(name)), name)  # type: ignore[misc]
       for name in (QUERY, EMBEDDING, HEAD, NORM, LAST)},
    "a layer too many": (tensors(lambda s: s.update({QUERY.replace("0", "7"): s[QUERY].clone()})), "layers.7"),
    "a tensor of something else": (tensors(lambda s: s.update({"visual.proj.weight": s[QUERY].clone()})), "visual"),
    "a misshapen query": (put(QUERY, lambda t: t[:8]), "q_proj"),
    "a transposed MLP": (put(LAST, lambda t: t.T), "up_proj"),
    "a vocabulary cut off": (put(EMBEDDING, lambda t: t[:300]), "embed_tokens"),
    "a head cut off": (put(HEAD, lambda t: t[:300]), "lm_head"),
    "a flat norm": (put(NORM, lambda t: t[None]), "norm"),
    "NaN in the query": (put(QUERY, _poisoned(float("nan"))), "q_proj"),
    "NaN in the embeddings": (put(EMBEDDING, _poisoned(float("nan"))), "embed_tokens"),
    "infinity in the MLP": (put(LAST, _poisoned(float("inf"))), "up_proj"),
    "infinity in the head": (put(HEAD, _poisoned(float("-inf"))), "lm_head"),
    "other names": (_rename("model.layers", "transformer.h"), "layers"),
    "a prefix": (_rename("model.", "module.net."), "embed_tokens|layers|norm|model."),
    "no tensors": (tensors(lambda state: state.clear()), "model"),
}  # fmt: skip


def _cut(share: float) -> Change:
    def change(model: Path) -> None:
        path = model / WEIGHTS
        os.truncate(path, int(path.stat().st_size * share))

    return change


def _write(name: str, content: bytes | str) -> Change:
    return lambda model: (model / name).write_bytes(content.encode() if isinstance(content, str) else content)


def _both(*changes: Change) -> Change:
    return lambda model: [change(model) for change in changes]


def _gone(name: str) -> Change:
    return lambda model: (model / name).unlink()


def _folder(name: str) -> Change:
    return lambda model: ((model / name).unlink(missing_ok=True), (model / name).mkdir())


class Payload:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {CANARY}",)


def pickled(name: str) -> Change:
    """Return what leaves a pickle that runs code in place of safetensors."""

    def change(model: Path) -> None:
        import pickle

        (model / name).write_bytes(pickle.dumps({"weight": Payload()}))

    return change


def index(content: Any) -> Change:
    """Return what replaces the weights by an index of shards."""
    text = content if isinstance(content, str) else json.dumps(content)
    return _both(_gone(WEIGHTS), _write(f"{WEIGHTS}.index.json", text))


HEADER = struct.pack("<Q", 2**40)
FILES: dict[str, tuple[Change, tuple[str, ...]]] = {
    "cut in half": (_cut(0.5), ("model",)),
    "cut at the end": (_cut(0.999), ("model",)),
    "cut in the header": (_cut(0.01), ("model",)),
    "empty": (_write(WEIGHTS, b""), ("model",)),
    "a web page": (_write(WEIGHTS, "<html>Not Found</html>"), ("model",)),
    "an LFS pointer": (_write(WEIGHTS, "version https://git-lfs.github.com/spec/v1\nsize 1\n"), ("model",)),
    "a header of a terabyte": (_write(WEIGHTS, HEADER + b"{}"), ("model",)),
    "a header that is no JSON": (_write(WEIGHTS, struct.pack("<Q", 8) + b"{{{{{{{{"), ("model",)),
    "zeros": (_write(WEIGHTS, bytes(5000)), ("model",)),
    "a folder": (_folder(WEIGHTS), ("model",)),
    "none": (_gone(WEIGHTS), ("model",)),
    "a pickle alone": (_both(_gone(WEIGHTS), pickled("pytorch_model.bin")), ("safetensors",)),
    "shards that are not there": (index({"metadata": {}, "weight_map": {QUERY: "model-00001-of-00002.safetensors"}}), ("model",)),
    "an index that is no JSON": (index('{"weight_map": {'), ("model",)),
    "an index that is a list": (index([1, 2]), ("model",)),
    "an index without a map": (index({"metadata": {}}), ("model",)),
    "an index up the tree": (index({"metadata": {}, "weight_map": {QUERY: "../../../etc/passwd"}}), ("model",)),
    "a loop": (_both(_gone(WEIGHTS), lambda m: (m / WEIGHTS).symlink_to(WEIGHTS)), ("model",)),
}  # fmt: skip


def weights() -> Iterator[Case]:
    """Yield weights that are damaged, missing, too many, of another shape, or no numbers."""
    for what, (change, name) in TENSORS.items():
        yield base(f"weights/{what}", change, refused("model", name))
        yield judged(f"weights/{what}", change, refused("model", name))
    for what, (change, parts) in FILES.items():
        yield base(f"weights file/{what}", change, refused(*parts))
    for what in ("cut in half", "a pickle alone", "none"):
        yield judged(f"weights file/{what}", FILES[what][0], refused(*FILES[what][1]))
    for role in ("--reward-model", "--judge"):
        for what in (
            f"without {QUERY}",
            f"without {NORM}",
            "a misshapen query",
            "NaN in the query",
            "a layer too many",
        ):
            yield scoring(f"classifier/{what}", TENSORS[what][0], refused("model", TENSORS[what][1]), role)
        yield scoring("classifier/without its head", tensors(lambda s: s.pop("score.weight")), refused("score"), role)
        yield scoring("classifier/cut in half", _cut(0.5), refused("model"), role)


# ---- config.json ----------------------------------------------------------------------------------


def config(values: Mapping[str, Any]) -> Change:
    """Return what changes values of config.json; None takes one away."""

    def change(model: Path) -> None:
        path = model / "config.json"
        found = json.loads(path.read_text()) | dict(values)
        path.write_text(json.dumps({name: value for name, value in found.items() if value is not None}))

    return change


CONFIGS: dict[str, Mapping[str, Any]] = {
    "a layer fewer": {"num_hidden_layers": 1},
    "a layer more": {"num_hidden_layers": 3},
    "no layers": {"num_hidden_layers": 0},
    "layers of less than none": {"num_hidden_layers": -1},
    "a million layers": {"num_hidden_layers": 10**6},
    "layers as text": {"num_hidden_layers": "two"},
    "a billion wide": {"hidden_size": 10**9},
    "no width": {"hidden_size": 0},
    "a width of less than none": {"hidden_size": -16},
    "another width": {"hidden_size": 32},
    "a width as text": {"hidden_size": "wide"},
    "a width as a list": {"hidden_size": [16]},
    "no heads": {"num_attention_heads": 0},
    "heads that do not divide": {"num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": None},
    "key heads that do not divide": {"num_key_value_heads": 3},
    "a larger vocabulary": {"vocab_size": 400},
    "a smaller vocabulary": {"vocab_size": 100},
    "no vocabulary": {"vocab_size": 0},
    "a vocabulary of a trillion": {"vocab_size": 10**12},
    "another MLP": {"intermediate_size": 48},
    "no such activation": {"hidden_act": "no_such_act"},
    "no such type": {"model_type": "no_such_type"},
    "no type": {"model_type": None},
    "a number as type": {"model_type": 7},
    "an encoder": {"model_type": "bert", "architectures": ["BertModel"]},
    "an encoder and decoder": {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]},
    "no such rope": {"rope_scaling": {"rope_type": "no_such_rope", "factor": 2.0}, "rope_parameters": {"rope_type": "no_such_rope"}},
    "no such quantization": {"quantization_config": {"quant_method": "no_such_method"}},
    "quantization of another library": {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
    "few positions": {"max_position_embeddings": 16},
    "no such dtype": {"dtype": "float7", "torch_dtype": "float7"},
    "an end token of no embedding": {"eos_token_id": 99999},
    "a pad token of no embedding": {"pad_token_id": 99999},
    "a norm of nothing": {"rms_norm_eps": "small"},
}  # fmt: skip
CONFIG_FILES = {
    "empty": "", "cut": '{"model_type": "lla', "a list": "[]", "a number": "3", "null": "null", "a web page": "<html></html>",
    "nested without end": '{"a":' * 50_000, "an enormous integer": '{"model_type": "llama", "vocab_size": ' + "9" * 5000 + "}",
    "not UTF-8": b'{"model_type": "\xff\xfe"}', "zeros": bytes(100),
}  # fmt: skip


def remote(file: str, key: str) -> Change:
    """Return what names Python code beside the model in a JSON file."""

    def change(model: Path) -> None:
        (model / "evil.py").write_text(CODE.replace(f"'{CANARY}'", repr(str(model.parent / CANARY))))
        path = model / file
        path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {key: ["evil.Thing", None] if "Tok" in key else "evil.Thing"},
                                                                    "model_type": "evil" if file == "config.json" else "x"}))  # fmt: skip

    return change


def configs() -> Iterator[Case]:
    """Yield config.json that says something else than the weights, or nothing."""
    for what, values in CONFIGS.items():
        yield base(f"config/{what}", config(values), refused("model|position|token"))
    for what, content in CONFIG_FILES.items():
        yield base(f"config file/{what}", _write("config.json", content), refused("model"))
        if what in ("empty", "a list", "null", "nested without end", "zeros"):
            yield judged(f"config file/{what}", _write("config.json", content), refused("model"))
    for what, change in {"none": _gone("config.json"), "a folder": _folder("config.json")}.items():
        yield base(f"config file/{what}", change, refused("model"))
    yield base(
        "config/code of its own", remote("config.json", "AutoConfig"), refused("trust_remote_code|trust-remote-code")
    )
    yield judged(
        "config/code of its own", remote("config.json", "AutoConfig"), refused("trust_remote_code|trust-remote-code")
    )


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
    for what, content in {"empty": "", "cut": '{"version": "1.0", "mod', "a list": "[]", "null": "null", "an object": "{}",
                          "zeros": bytes(100), "a web page": "<html></html>", "nested": '{"a":' * 50_000}.items():  # fmt: skip
        yield base(f"tokenizer file/{what}", _write(TOKENIZER, content), refused("tokenizer|model"))
        yield base(f"tokenizer settings/{what}", _write(SETTINGS, content), (*refused("tokenizer|model"), *said()))
    yield base("tokenizer file/none", _both(_gone(TOKENIZER), _gone(SETTINGS)), refused("tokenizer"))
    yield base("tokenizer file/a folder", _folder(TOKENIZER), refused("tokenizer|model"))
    yield judged("tokenizer file/none", _both(_gone(TOKENIZER), _gone(SETTINGS)), refused("tokenizer"))
    yield judged("tokenizer file/cut", _write(TOKENIZER, '{"version": "1.0", "mod'), refused("tokenizer|model"))
    for what, values in {"no end token": {"eos_token": None}, "an end token of no such text": {"eos_token": "<|none|>"},
                         "a number as end token": {"eos_token": 7}, "a list as end token": {"eos_token": ["</s>"]},
                         "a template that is a number": {"chat_template": 7},
                         "a template that is a list": {"chat_template": [1]}}.items():  # fmt: skip
        right = (*refused("token|template"), *(said() if "template" in what or what == "a list as end token" else ()))
        yield base(f"tokenizer settings/{what}", settings(**values), right)
    yield base("tokenizer settings/code of its own", remote(SETTINGS, "AutoTokenizer"),
               (*said(), *refused("tokenizer|model|trust")))  # fmt: skip
    words = [{**row, "chosen": row["chosen"] + "<|new|>"} for row in text_rows()]
    for what, options in {
        "in the data": ("--dataset", "new.jsonl"),
        "in the template": ("--chat-template", "t.jinja", "--dataset", "kit/chat.jsonl"),
    }.items():
        case = base(
            f"tokenizer/a token without an embedding {what}", added("<|new|>"), refused("320|<|new|>"), *options
        )
        write = files(
            {"new.jsonl": lines(words), "t.jinja": "{% for m in messages %}<|new|>{{ m['content'] }}{% endfor %}"}
        )
        yield Case(case.name, case.command, case.right, _then(case.make, write))


def _then(*makes: Callable[[Path], Any]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for one in makes:
            one(folder)

    return make


def generation() -> Iterator[Case]:
    """Yield generation_config.json that is damaged, or names ends that are no tokens."""
    file = "generation_config.json"
    for what, content in {
        "an end of no embedding": '{"eos_token_id": [2, 99999]}', "a negative end": '{"eos_token_id": [2, -5]}',
        "words as ends": '{"eos_token_id": "</s>"}', "a half as end": '{"eos_token_id": 1.5}', "nulls as ends": '{"eos_token_id": [null]}',
        "a mapping as end": '{"eos_token_id": {"a": 1}}', "true as end": '{"eos_token_id": true}',
    }.items():  # fmt: skip
        yield base(f"generation/{what}", _write(file, content), refused("eos_token_id|end token|generation"))
    for what, content in {
        "empty": "",
        "cut": '{"eos',
        "a list": "[]",
        "nested": '{"a":' * 50_000,
        "zeros": bytes(9),
    }.items():
        yield base(f"generation file/{what}", _write(file, content), refused("generation|model"))
    for what, content in {"two ends": '{"eos_token_id": [2, 4]}', "no end": "{}", "null as end": '{"eos_token_id": null}',
                          "an unknown field": '{"no_such_field": 1}'}.items():  # fmt: skip
        yield base(f"generation/odd but right: {what}", _write(file, content), said())


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
        change = _write("chat_template.jinja", str(TEMPLATES[what]))
        yield base(
            f"template of the tokenizer/{what}", change, refused("template"), "--dataset", "kit/chat.jsonl", kind="chat"
        )


# ---- no models ------------------------------------------------------------------------------------


def no_models() -> Iterator[Case]:
    """Yield what is no causal language model, or none at all."""
    for what, (path, parts) in {
        "a file": ("kit/pairs.jsonl", ("pairs.jsonl",)),
        "an adapter": ("kit/adapter", ("adapter", "model")),
        "a reward adapter": ("kit/reward", ("adapter", "model")),
        "a classifier": ("kit/classifier", ("classif",)),
        "a run": ("kit/run", ("kit/run",)),
        "a stage": ("kit/stage", ("kit/stage",)),
        "an empty folder": ("empty", ("empty",)),
        "the kit": ("kit", ("kit",)),
    }.items():
        yield Case(
            f"models/no model/{what}", ("sft.py", "--model", path, *DATA), refused(*parts), files({"empty": os.mkdir})
        )
    for what, (path, parts) in {
        "a classifier of two labels": ("kit/two", ("2 labels|two labels",)),
        "the base": ("kit/model", ("model",)),
        "a policy": ("kit/adapter", ("policy",)),
        "an empty folder": ("empty", ("empty",)),
        "nothing": ("nowhere", ("nowhere",)),
        "a run": ("kit/run", ("kit/run",)),
    }.items():
        for role in ("--reward-model", "--judge"):
            command = ("evaluate.py", "--models", "a=kit/adapter", role, path, "--model", "kit/model", *DATA)
            yield Case(f"models/no reward model/{what}, {role}", command, refused(*parts), files({"empty": os.mkdir}))
