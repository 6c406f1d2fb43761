"""Models from elsewhere: weights and config, and what is no model."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.faults.cases import CANARY, Case, files, refused, said
from benchmarks.faults.foreign import DATA, Change, as_folder, base, both, gone, judged, remote, scoring, write


def cases(seed: int) -> Iterator[Case]:
    """Yield every fault of a model's weights and config."""
    yield from weights()
    yield from configs()
    yield from no_models()


# ---- weights --------------------------------------------------------------------------------------

WEIGHTS = "model.safetensors"
QUERY, EMBEDDING, HEAD, NORM = (
    "model.layers.0.self_attn.q_proj.weight",
    "model.embed_tokens.weight",
    "lm_head.weight",
    "model.norm.weight",
)
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
    **{
        f"without {name}": (tensors(lambda state, name=name: state.pop(name)), name)  # type: ignore[misc]
        for name in (QUERY, EMBEDDING, HEAD, NORM, LAST)
    },
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
}


def _cut(share: float) -> Change:
    def change(model: Path) -> None:
        path = model / WEIGHTS
        os.truncate(path, int(path.stat().st_size * share))

    return change


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
    return both(gone(WEIGHTS), write(f"{WEIGHTS}.index.json", text))


HEADER = struct.pack("<Q", 2**40)
FILES: dict[str, tuple[Change, tuple[str, ...]]] = {
    "cut in half": (_cut(0.5), ("model",)),
    "cut at the end": (_cut(0.999), ("model",)),
    "cut in the header": (_cut(0.01), ("model",)),
    "empty": (write(WEIGHTS, b""), ("model",)),
    "a web page": (write(WEIGHTS, "<html>Not Found</html>"), ("model",)),
    "an LFS pointer": (write(WEIGHTS, "version https://git-lfs.github.com/spec/v1\nsize 1\n"), ("model",)),
    "a header of a terabyte": (write(WEIGHTS, HEADER + b"{}"), ("model",)),
    "a header that is no JSON": (write(WEIGHTS, struct.pack("<Q", 8) + b"{{{{{{{{"), ("model",)),
    "zeros": (write(WEIGHTS, bytes(5000)), ("model",)),
    "a folder": (as_folder(WEIGHTS), ("model",)),
    "none": (gone(WEIGHTS), ("model",)),
    "a pickle alone": (both(gone(WEIGHTS), pickled("pytorch_model.bin")), ("safetensors",)),
    "shards that are not there": (
        index({"metadata": {}, "weight_map": {QUERY: "model-00001-of-00002.safetensors"}}),
        ("model",),
    ),
    "an index that is no JSON": (index('{"weight_map": {'), ("model",)),
    "an index that is a list": (index([1, 2]), ("model",)),
    "an index without a map": (index({"metadata": {}}), ("model",)),
    "an index up the tree": (index({"metadata": {}, "weight_map": {QUERY: "../../../etc/passwd"}}), ("model",)),
    "a loop": (both(gone(WEIGHTS), lambda m: (m / WEIGHTS).symlink_to(WEIGHTS)), ("model",)),
}


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
    "no such rope": {
        "rope_scaling": {"rope_type": "no_such_rope", "factor": 2.0},
        "rope_parameters": {"rope_type": "no_such_rope"},
    },
    "no such quantization": {"quantization_config": {"quant_method": "no_such_method"}},
    "quantization of another library": {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
    "few positions": {"max_position_embeddings": 16},
    "no such dtype": {"dtype": "float7", "torch_dtype": "float7"},
    "an end token of no embedding": {"eos_token_id": 99999},
    "a pad token of no embedding": {"pad_token_id": 99999},
    "a norm of nothing": {"rms_norm_eps": "small"},
}
CONFIG_FILES = {
    "empty": "",
    "cut": '{"model_type": "lla',
    "a list": "[]",
    "a number": "3",
    "null": "null",
    "a web page": "<html></html>",
    "nested without end": '{"a":' * 50_000,
    "an enormous integer": '{"model_type": "llama", "vocab_size": ' + "9" * 5000 + "}",
    "not UTF-8": b'{"model_type": "\xff\xfe"}',
    "zeros": bytes(100),
}


def configs() -> Iterator[Case]:
    """Yield config.json that says something else than the weights, or nothing."""
    for what, values in CONFIGS.items():
        # An end that is no token is never drawn: it is left out, and said.
        ends = said("end token 99999") if "end token" in what else ()
        yield base(f"config/{what}", config(values), (*refused("model|position|token"), *ends))
    for what, content in CONFIG_FILES.items():
        yield base(f"config file/{what}", write("config.json", content), refused("model"))
        if what in ("empty", "a list", "null", "nested without end", "zeros"):
            yield judged(f"config file/{what}", write("config.json", content), refused("model"))
    for what, change in {"none": gone("config.json"), "a folder": as_folder("config.json")}.items():
        yield base(f"config file/{what}", change, refused("model"))
    yield base(
        "config/code of its own", remote("config.json", "AutoConfig"), refused("trust_remote_code|trust-remote-code")
    )
    yield judged(
        "config/code of its own", remote("config.json", "AutoConfig"), refused("trust_remote_code|trust-remote-code")
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
