"""Config files and command lines: damaged or hostile YAML, wrong options, settings that cannot work together."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import yaml

from benchmarks.faults.cases import Case, Content, files, lines, refused, said, words
from benchmarks.faults.configs_fields import ENORMOUS, SHORT, TOUCH, Field, command, compare, short, without
from benchmarks.faults.kit import TINY, text_rows


def cases(seed: int) -> Iterator[Case]:
    """Yield every fault of a config file or a command line."""
    yield from yaml_files()
    yield from yaml_values()
    yield from options()
    yield from extras()
    yield from together()


# ---- YAML -----------------------------------------------------------------------------------------

LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
YAML_FILES: dict[str, tuple[Content, tuple[str, ...]]] = {
    "unclosed": ("seeds: [0]\npair: [1, 2", ("line",)),
    "tabs": ("pair:\n\tbeta: 0.2\n", ("line 2",)),
    "bad indentation": ("pair:\n  beta: 0.2\n beta: 1\n", ("line",)),
    "a colon too many": ("eval_prompts: 4: 5\n", ("line",)),
    "a key twice": ("eval_prompts: 4\neval_prompts: 8\n", ("eval_prompts",)),
    "a key twice in a section": ("pair:\n  beta: 0.1\n  beta: 0.2\n", ("beta",)),
    "a section twice": ("pair: {beta: 0.1}\npair: {beta: 0.2}\n", ("pair",)),
    "a key in two spellings": ("eval-prompts: 4\neval_prompts: 8\n", ("eval_prompts|eval-prompts",)),
    "an unknown alias": ("pair: *nowhere\n", ("nowhere",)),
    "an alias of itself": ("pair: &p {extra: *p}\n", ("extra|pair|recurs|itself",)),
    "a list of itself": ("seeds: &s [0, *s]\n", ("seeds|recurs|itself",)),
    "a billion laughs": (f"{LAUGHS}algorithms: *i\n", ()),
    "a billion laughs in extra": (f"dpo:\n  extra: {{a: [*i]}}\n{LAUGHS}", ()),
    "code": (f"output: {TOUCH}\n", ("python|tag",)),
    "code in a section": (f"pair: {{beta: {TOUCH}}}\n", ("python|tag",)),
    "a Python name": ("output: !!python/name:os.system\n", ("python|tag",)),
    "an unknown tag": ("output: !mine out\n", ("mine|tag",)),
    "bytes": ("output: !!binary aGVsbG8=\n", ("output",)),
    "a set": ("seeds: !!set {0, 1}\n", ("seeds",)),
    "an impossible date": ("eval_prompts: 2026-13-45\n", ()),
    "an impossible time": ("output: 2026-01-01T99:99:99Z\n", ()),
    "a date as key": ("2024-01-01: 3\n", ("2024|mapping",)),
    "a number as key": ("1: 3\n", ("1|mapping",)),
    "true as key": ("true: 3\n", ("true|mapping",)),
    "null as key": ("null: 3\n", ("null|none|mapping",)),
    "a list as key": ("? [a, b]\n: 3\n", ()),
    "a mapping as key": ("? {a: b}\n: 3\n", ()),
    "a number as key of a section": ("pair: {1: 2}\n", ("pair",)),
    "a merge of a number": ("<<: 3\n", ()),
    "a list": ("- pair\n", ("mapping",)),
    "a word": ("beta\n", ("mapping",)),
    "a number": ("17\n", ("mapping",)),
    "two documents": ("eval_prompts: 4\n---\neval_prompts: 8\n", ()),
    "a future version": ("%YAML 9.9\n---\neval_prompts: 4\n", ()),
    "nested lists": ("seeds: " + "[" * 20_000, ()),
    "nested mappings": ("pair: " + "{a: " * 20_000, ()),
    "nested blocks": ("".join(" " * n + "a:\n" for n in range(1500)), ()),
    "NUL bytes": ("eval_prompts: 4\0\n", ()),
    "zeros": (bytes(1000), ()),
    "a control character": ("output: a\x07b\n", ()),
    "an escape in a value": ('output: "a\\e[2Jb"\n', ("output",)),
    "latin-1": ("output: é\n".encode("latin-1"), ("mine.yaml",)),
    "UTF-32": ("eval_prompts: 4\n".encode("utf-32"), ("mine.yaml",)),
    "noise": (bytes(range(256)), ("mine.yaml",)),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(100), ("mine.yaml",)),
    "a section that is null": ("pair:\n", ("pair",)),
    "a section that is a list": ("pair: [0.1]\n", ("pair",)),
    "a section that is a number": ("pair: 3\n", ("pair",)),
    "an unknown field": ("evl_prompts: 3\n", ("evl_prompts", "eval_prompts")),
    "an unknown section": ("dop: {beta: 0.2}\n", ("dop", "dpo")),
    "an unknown field of a section": ("dpo: {bta: 0.2}\n", ("bta", "beta")),
    "a field of another kind": ("pair: {rollout_prompts: 4}\n", ("rollout_prompts",)),
    "octal": ("eval_prompts: 010\n", ("eval_prompts|010",)),
    "sixties": ("eval_prompts: 1:30\n", ("eval_prompts",)),
    "a world in a world": ("world: {world: real}\n", ("world",)),
    "a folder": (os.mkdir, ("mine.yaml",)),
    "an endless pipe": (os.mkfifo, ("mine.yaml",)),
    "a loop": (lambda path: path.symlink_to("mine.yaml"), ("mine.yaml",)),
    "endless zeros": (lambda path: path.symlink_to("/dev/zero"), ("mine.yaml",)),
}


NAMES_OF_FOLDERS = ("an impossible time", "an escape in a value")
"""Odd ones, which a file system takes; what is printed of them must steer no terminal."""

LIMITS = words("--max-prompt-tokens 200 --max-response-tokens 24 --max-steps 1 --report false")
"""Short enough for the model, so that what is taken is trained on."""


def yaml_files() -> Iterator[Case]:
    """Yield config files that are damaged, hostile, or say something else than they seem to."""
    for what, (text, parts) in YAML_FILES.items():
        named = tuple(f"{part}|mine.yaml is not readable YAML: line" for part in parts)
        right = (*refused(*named), *(said() if what in NAMES_OF_FOLDERS else ()))
        yield compare(f"configs/file/{what}", text, right, None, *LIMITS)
    for what, text in {
        "a byte order mark": b"\xef\xbb\xbf" + TINY.encode(),
        "Windows line ends": TINY.replace("\n", "\r\n"),
        "JSON": json.dumps(yaml.safe_load(SHORT)),
        "dashes in names": TINY.replace("eval_prompts", "eval-prompts"),
        "1e-4": TINY + "dpo: {learning_rate: 1e-4}\n",
    }.items():
        yield compare(f"configs/odd but right/{what}", text, said(), None, "--max-steps", "1", "--report", "false")


# ---- options --------------------------------------------------------------------------------------

OPTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "unknown": (("--evl-prompts", "3"), ("--evl-prompts", "--eval-prompts")),
    "without a value": (("--eval-prompts",), ("--eval-prompts",)),
    "a stray word": (("stray",), ("stray",)),
    "a short one": (("-x",), ("-x",)),
    "dashes alone": (("--",), ()),
    "a section without a field": (("--dpo.", "1"), ("dpo",)),
    "a field without a section": (("--.beta", "1"), ("beta|section",)),
    "a section's field without a value": (("--dpo.beta",), ("dpo.beta",)),
    "an empty field of a section": (("--dpo.beta=",), ("beta",)),
    "an unknown section": (("--dop.beta", "1"), ("dop", "dpo")),
    "an unknown field of a section": (("--dpo.bta", "1"), ("bta", "beta")),
    "a section of a method that does not run": (("--no-method.beta", "1"), ("no-method",)),
    "three parts": (("--dpo.beta.x", "1"), ("beta",)),
    "an unknown method": (("--algorithms", "dop"), ("dop", "dpo")),
    "no method": (("--algorithms", ""), ("algorithms",)),
    "a method twice": (("--algorithms", "dpo,dpo"), ("dpo",)),
    "sft as method": (("--algorithms", "sft"), ("sft",)),
    "a reward method that is none": (("--reward-method", "dpo"), ("dpo",)),
    "an unknown reward method": (("--reward-method", "rewrad"), ("rewrad",)),
    "a method as a place without a name": (("--algorithms", "mine.py:"), ("mine.py",)),
    "a seed twice": (("--seeds", "0,1,0"), ("seeds",)),
    "no seeds": (("--seeds", ""), ("seeds",)),
    "a negative seed": (("--seeds", "-1"), ("seeds",)),
    "no held-out share": (("--heldout-fraction", "0"), ("heldout",)),
    "shares of all": (("--heldout-fraction", "0.5", "--gold-fraction", "0.5"), ("gold_fraction",)),
    "no such config": (("--config", "nowhere.yaml"), ("nowhere.yaml",)),
    "no such data": (("--dataset", "nowhere.jsonl"), ("nowhere.jsonl",)),
    "no such held-out data": (("--heldout", "nowhere.jsonl"), ("nowhere.jsonl",)),
    "no such model": (("--model", "./nowhere"), ("nowhere",)),
    "no such hub model": (("--model", "no-such-owner/no-such-model"), ("no-such-owner",)),
    "no such hub data": (("--dataset", "no-such-owner/no-such-data"), ("no-such-owner",)),
    "a model of many parts": (("--model", "a/b/c/d"), ("a/b/c/d",)),
    "a model up the tree": (("--model", "../../../.."), ("../../../..",)),
    "no such template": (("--chat-template", "nowhere.jinja"), ("nowhere.jinja",)),
    "no such module to adapt": (("--target-modules", "no_proj"), ("no_proj|target_modules",)),
    "no module to adapt": (("--target-modules", ""), ("target_modules|target-modules",)),
    "an output that is a file": (("--output", "kit/pairs.jsonl"), ("pairs.jsonl",)),
    "an output inside a file": (("--output", "kit/pairs.jsonl/run"), ("pairs.jsonl",)),
    "an output in /proc": (("--output", "/proc/run"), ("/proc/run",)),
    "an output of 300 letters": (("--output", "a" * 300), ("aaa",)),
    "more tokens than positions": (
        ("--max-prompt-tokens", "250", "--max-response-tokens", "250"),
        ("positions|context",),
    ),
    "a limit that no row keeps": (("--max-prompt-tokens", "1"), ("token limits|max_prompt_tokens",)),
    "rollouts that do not divide": (("--algorithms", "ppo", "--ppo.rollout-prompts", "3"), ("rollout_prompts",)),
    "checkpoints inside a rollout": (
        ("--algorithms", "ppo", "--ppo.rollout-epochs", "2", "--ppo.save-steps", "3"),
        ("save_steps",),
    ),
    "no step to train": (("--dpo.max-steps", "0"), ("max_steps",)),
    "a planted reward of real data": (("--policy-reward", "gold"), ("gold",)),
    "a world of its own data": (("--world", "function"), ("function",)),
    "an endpoint without an address": (("--judge", "endpoint"), ("judge-url|judge_url",)),
    "an address without an endpoint": (("--judge-url", "http://localhost:9/v1"), ("judge-url|judge_url",)),
    "a budget of nothing": (("--budget", "5"), ("budget", "match")),
    "a budget of no size": (("--match", "tokens", "--budget", "0"), ("budget",)),
    "two samples for the oracle": (("--oracle-samples", "2"), ("oracle_samples|oracle-samples",)),
    "one snapshot": (("--snapshots", "1"), ("snapshots",)),
    "vLLM where it is not": (("--algorithms", "ppo", "--ppo.sampler", "vllm"), ("vllm",)),
    "a tracker that is not there": (("--dpo.report-to", "wandb"), ("wandb",)),
    "an unknown tracker": (("--dpo.report-to", "no-tracker"), ("no-tracker",)),
}
SWEEPS = (
    "beta",
    "beta=",
    "=1",
    "beta=a",
    "beta=nan",
    "beta=-1",
    "beta=0.1,0.1",
    "beta=0.1,,0.2",
    "no_such=1,2",
    "beta=inf",
    "beta=[1",
    "beta=2024-01-01",
    "beta=2026-13-45",
    "learning_rate=1e400",
    "max_steps=0.5",
    "beta={a: 1}",
    "seed=" + ENORMOUS,
    f"beta={TOUCH}",
)
ADDRESSES = (
    "localhost:8000",
    "ftp://localhost/v1",
    "http://",
    "http://a b/v1",
    "http://localhost:port/v1",
    "http://localhost:99999/v1",
    "http://user:word@localhost/v1",
    "http://localhost/v1?key=1",
    "http://[::1/v1",
    "file:///etc/passwd",
    "http://localhost:0x50/v1",
)


def options() -> Iterator[Case]:
    """Yield wrong command lines."""
    for what, (given, parts) in OPTIONS.items():
        yield Case(f"configs/options/{what}", (*command(), *given), refused(*parts))
    for text in SWEEPS:
        right = refused("sweep" if "=" not in text or not text[0].isalpha() else text.partition("=")[0])
        yield Case(f"configs/sweep/{short(text)}", (*command(), "--sweep", text), right)
    for address in ADDRESSES:
        given = ("--judge", "endpoint", "--judge-model", "m", "--judge-url", address)
        yield Case(f"configs/address/{address.replace('/', '_')}", (*command(), *given), refused("judge_url|judge-url"))
    for recipe in ("sft.py", "dpo.py", "ppo.py", "reward_model.py"):
        base = (recipe, *words("--model kit/model --dataset kit/pairs.jsonl --output out --config kit/tiny.yaml"))
        for what, (given, parts) in {
            "an unknown option": (("--bta", "0.2"), ("--bta",)),
            "a learning rate of infinity": (("--learning-rate", "inf"), ("learning_rate|learning-rate",)),
            "a batch of a trillion": (("--per-device-train-batch-size", str(10**12)), ("per_device_train_batch_size",)),
            "more steps than a number holds": (("--max-steps", str(10**19)), ("max_steps",)),
            "no such config": (("--config", "nowhere.yaml"), ("nowhere.yaml",)),
        }.items():
            yield Case(f"configs/{recipe}/{what}", (*base, *given), refused(*parts))


# ---- what only the library knows ------------------------------------------------------------------

EXTRAS = {
    "no_such_field": "1",
    "optim": "no_such_optimiser",
    "adam_beta1": "[1]",
    "output_dir": "elsewhere",
    "fp16": "maybe",
    "seed": "text",
    "deepspeed": "nowhere.json",
    "fsdp": "no_such_way",
    "lr_scheduler_kwargs": "{no_such: 1}",
    "optim_args": "no_such=1",
    "report_to": "no_such_tracker",
    "save_strategy": "sometimes",
    "logging_strategy": "never",
    "dataloader_num_workers": "-3",
    "warmup_ratio": "text",
    "learning_rate": ".nan",
    "max_steps": "2026-13-45",
    "per_device_train_batch_size": "-4",
    "push_to_hub": "true",
    "resume_from_checkpoint": "nowhere",
    "max_grad_norm": "[a]",
}


def extras() -> Iterator[Case]:
    """Yield fields of transformers.TrainingArguments that it does not take, or that would turn the run round."""
    for name, value in EXTRAS.items():
        text = f"{SHORT}dpo:\n  extra: {{{name}: {value}}}\n"
        inner = value.strip("{}").partition(":")[0]
        parts = refused(f"{name}|{inner}" if inner.isidentifier() else name)
        yield compare(f"configs/extra/{name} is {value}", text, parts, None, "--report", "false", "--max-steps", "1")


# ---- settings that cannot work together, or must --------------------------------------------------


def yaml_values() -> Iterator[Case]:
    """Yield values that YAML 1.1 reads as something else than was written."""
    for field, value in {
        "judge_model": "no",
        "output": "on",
        "model": "1e3",
        "judge": "12:30",
        "reward_method": "null",
        "dtype": "0x10",
    }.items():
        chosen = Field(field, str, False, None, None)
        yield compare(
            f"configs/read otherwise/{field} is {value}",
            f"{without(field)}{field}: {value}\n",
            refused(f"{field}|mine.yaml is not readable YAML: line"),
            chosen,
        )


def together() -> Iterator[Case]:
    """Yield what a run would stumble over at its end, and options that must work side by side."""
    few = {"one held-out prompt": 1, "one held-out row": 1}
    for what, count in few.items():
        rows = (
            [{**row, "prompt": text_rows()[0]["prompt"]} for row in text_rows(3)]
            if "prompt" in what
            else text_rows(count)
        )
        given = ("--heldout", "few.jsonl")
        make = files({"few.jsonl": lines(rows), "data.jsonl": lines(text_rows()[5:])})
        yield Case(f"configs/end/{what}", (*command(), "--dataset", "data.jsonl", *given), refused("held|prompt"), make)
    short = ("--report", "false")
    for what, given in {
        "steps twice": ("--dpo.max-steps", "12", "--max-steps", "1"),
        "steps of a kind": ("--pair.max-steps", "12", "--max-steps", "1"),
        "steps of none": ("--dpo.max-steps", "-1", "--max-steps", "1"),
    }.items():
        yield Case(f"configs/together/{what}", (*command(), *given, *short), said())
