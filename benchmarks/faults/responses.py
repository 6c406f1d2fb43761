"""Files of responses, and what annotate.py reads."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

from benchmarks.faults import kit
from benchmarks.faults.cases import Case, Content, Right, Row, files, lines, refused, said, table, words
from benchmarks.faults.kit import answer_rows, begun

COMMAND = words("evaluate.py --model kit/model --dataset kit/pairs.jsonl --config kit/tiny.yaml --output out --models")
NAN = float("nan")


def changed(change: Row, at: int = 6) -> list[Row]:
    """Return answers of which one row has these values."""
    return [{**row, **(change if i == at else {})} for i, row in enumerate(answer_rows())]


def cases(seed: int) -> Iterator[Case]:
    """Yield every fault of a file of responses."""
    for what, change in ROW_FAULTS.items():
        for file in ("r.jsonl", "r.json"):
            yield case(f"row/{what}, {file}", file, table(changed(change)), refused(file, "7"))
    for what, (file, content, parts) in file_faults().items():
        # The very bytes that were judged under another name are not read again.
        known = said() if what in ("gz that is text", "parquet that is text") else ()
        yield case(f"file/{what}", file, content, (*refused(*parts), *known))
    for what, content in odd().items():
        yield case(f"odd but right/{what}", "r.jsonl", content, said())
    for what, given in {
        "no name": ("=r.jsonl",),
        "no file": ("a=",),
        "no sign": ("r.jsonl",),
        "a name twice": ("a=r.jsonl,a=r.jsonl",),
        "the reference's name": ("reference=r.jsonl",),
        "a name with blanks": ("a b=r.jsonl",),
        "nothing": ("",),
        "no such file": ("a=nowhere.jsonl",),
        "an unknown suffix": ("a=r.txt",),
        "the best of one": ("a=best-of-1:kit/adapter", "--reward-model", "kit/reward"),
        "the best of a file": ("a=best-of-4:r.jsonl", "--reward-model", "kit/reward"),
        "the best without a judge": ("a=best-of-4:kit/adapter",),
        "the best of the best": ("a=best-of-2:best-of-2:kit/adapter", "--reward-model", "kit/reward"),
        "the best of a million": ("a=best-of-1000000000:kit/adapter", "--reward-model", "kit/reward"),
        "a folder of nothing": ("a=empty",),
        "a model of the hub that is not there": ("a=no-such/model",),
    }.items():
        make = files({"r.jsonl": lines(answer_rows()), "r.txt": "a", "empty": os.mkdir})
        known = ("best-of", "empty", "nowhere", "r.txt", "no-such", "reference")
        culprit = next((word for word in known if word in given[0]), "models")
        culprit += "|reward-model" if what == "the best without a judge" else ""
        yield Case(f"responses/names/{what}", (*COMMAND, *given), refused(culprit), make)
    yield from annotation()


def case(name: str, file: str, content: Content, right: tuple[Right, ...]) -> Case:
    """Return a case in which a file of responses is evaluated."""
    return Case(f"responses/{name}", (*COMMAND, f"a={file}"), right, begun("evaluated", files({file: content})))


ROW_FAULTS: dict[str, Row] = {
    "prompt is null": {"prompt": None},
    "prompt is a number": {"prompt": 7},
    "prompt is NaN": {"prompt": NAN},
    "prompt is a list": {"prompt": ["a"]},
    "response is null": {"response": None},
    "response is a number": {"response": 3},
    "response is NaN": {"response": NAN},
    "response is true": {"response": True},
    "response is a list": {"response": ["a"]},
    "response is a mapping": {"response": {"text": "a"}},
    "response is a lone surrogate": {"response": "a\ud800"},
    "a second answer to a prompt": {"prompt": kit.prompt(2)},
}


def file_faults() -> dict[str, tuple[str, Content, tuple[str, ...]]]:
    """Return file name, content and what must be named."""
    text = lines(answer_rows())
    half = lines(answer_rows()[:8])
    return {
        "empty": ("r.jsonl", "", ("r.jsonl",)),
        "blank": ("r.jsonl", "\n\n", ("r.jsonl",)),
        "cut": ("r.jsonl", text[:-20], ("r.jsonl", str(kit.ROWS))),
        "a line that is no JSON": ("r.jsonl", "what?\n" + text, ("r.jsonl", "1")),
        "a line that is a list": ("r.jsonl", "[1]\n" + text, ("r.jsonl", "1")),
        "an enormous integer": ("r.jsonl", '{"prompt": ' + "9" * 5000 + "}\n" + text, ("r.jsonl", "1")),
        "nested": ("r.jsonl", "[" * 100_000 + "\n" + text, ("r.jsonl",)),
        "UTF-16": ("r.jsonl", text.encode("utf-16"), ("r.jsonl",)),
        "latin-1": ("r.csv", "prompt,response\né,ü\n".encode("latin-1"), ("r.csv",)),
        "zeros": ("r.jsonl", bytes(5000), ("r.jsonl",)),
        "gz that is text": ("r.jsonl.gz", text, ("r.jsonl.gz",)),
        "parquet that is text": ("r.parquet", text, ("r.parquet",)),
        "a web page": ("r.jsonl", "<html></html>", ("r.jsonl",)),
        "half the prompts": ("r.jsonl", half, ("r.jsonl", "missing")),
        "no prompt of ours": ("r.jsonl", lines([{"prompt": "a", "response": "b"}]), ("r.jsonl", "missing")),
        "prompts in capitals": (
            "r.jsonl",
            lines([{**r, "prompt": r["prompt"].upper()} for r in answer_rows()]),
            ("r.jsonl", "missing"),
        ),
        "prompts with other blanks": (
            "r.jsonl",
            lines([{**r, "prompt": r["prompt"].replace(" ", "  ")} for r in answer_rows()]),
            ("r.jsonl", "missing"),
        ),
        "other columns": ("r.jsonl", lines([{"question": "a", "answer": "b"}]), ("r.jsonl", "1", "prompt")),
        "two answers to each": (
            "r.jsonl",
            text + lines([{**r, "response": "It slept."} for r in answer_rows()]),
            ("r.jsonl",),
        ),
        "two answers, the same twice": ("r.jsonl", text + lines(changed({"response": "It slept."})[:1]), ("r.jsonl",)),
    }


def odd() -> dict[str, Content]:
    """Return files that are odd and right."""
    return {
        "a byte order mark": b"\xef\xbb\xbf" + lines(answer_rows()).encode(),
        "Windows line ends": lines(answer_rows()).replace("\n", "\r\n"),
        "instruction and output": lines([{"instruction": r["prompt"], "output": r["response"]} for r in answer_rows()]),
        "columns more": lines([{**r, "model": "m", "score": NAN} for r in answer_rows()]),
        "empty answers": lines([{**r, "response": ""} for r in answer_rows()]),
        "prompts that are not asked for": lines([*answer_rows(), {"prompt": "What else?", "response": "No."}]),
        "a list": json.dumps(answer_rows()),
    }


# ---- annotate.py ----------------------------------------------------------------------------------


def annotation() -> Iterator[Case]:
    """Yield what annotate.py cannot use."""
    samples = lines(answer_rows())
    other = lines([{**row, "response": "It slept."} for row in answer_rows()])
    pair = {"a.jsonl": samples, "b.jsonl": other}
    both = ("--samples", "one=a.jsonl,two=b.jsonl")
    verdict = {"prompt": "a", "first": "b", "second": "c", "verdict": "first"}
    found: dict[str, tuple[tuple[str, ...], dict[str, Content], tuple[str, ...]]] = {
        "nothing to judge": ((), {}, ("samples|pairs",)),
        "both kinds": ((*both, "--pairs", "kit/pairs.jsonl"), pair, ("samples|pairs",)),
        "one file": (("--samples", "one=a.jsonl"), pair, ("samples",)),
        "three files": (("--samples", "one=a.jsonl,two=b.jsonl,three=a.jsonl"), pair, ("samples",)),
        "files without names": (("--samples", "a.jsonl,b.jsonl"), pair, ("samples",)),
        "a file that is not there": (("--samples", "one=a.jsonl,two=nowhere.jsonl"), pair, ("nowhere.jsonl",)),
        "other numbers of rows": (both, {**pair, "b.jsonl": lines(answer_rows()[:5])}, ("b.jsonl",)),
        "other prompts": (both, {**pair, "b.jsonl": lines(answer_rows()[::-1])}, ("b.jsonl", "1")),
        "equal answers": (both, {**pair, "b.jsonl": samples}, ("judge|differ",)),
        "a line that is no JSON": (both, {**pair, "b.jsonl": "what?\n" + other}, ("b.jsonl", "1")),
        "a row without a response": (both, {**pair, "b.jsonl": lines(changed({"response": None}))}, ("b.jsonl", "7")),
        "a row with a number": (both, {**pair, "b.jsonl": lines(changed({"response": 3}))}, ("b.jsonl", "7")),
        "zeros": (both, {**pair, "b.jsonl": bytes(999)}, ("b.jsonl",)),
        "a folder": (both, {"a.jsonl": samples, "b.jsonl": os.mkdir}, ("b.jsonl",)),
        "pairs that are not there": (("--pairs", "nowhere.jsonl"), {}, ("nowhere.jsonl",)),
        "pairs of nothing": (("--pairs", "p.jsonl"), {"p.jsonl": ""}, ("p.jsonl",)),
        "an export over its source": ((*both, "--export", "a.jsonl"), pair, ("a.jsonl",)),
        "an export of nothing": (("--export", "e.jsonl"), {}, ("verdicts.jsonl",)),
        "an export into nowhere": (
            ("--export", "no/where.jsonl"),
            {"verdicts.jsonl": lines([verdict])},
            ("no/where.jsonl",),
        ),
        "an export of other rows": (("--export", "e.jsonl"), {"verdicts.jsonl": samples}, ("verdicts.jsonl", "1")),
        "a limit of none": ((*both, "--limit", "0"), pair, ("limit",)),
        "a seed as text": ((*both, "--seed", "ten"), pair, ("seed",)),
        "an output that is a folder": ((*both, "--output", "out"), {**pair, "out": os.mkdir}, ("out",)),
        "an output that is something else": ((*both, "--output", "o.txt"), {**pair, "o.txt": "my notes\n"}, ("o.txt",)),
        "an output of other rows": ((*both, "--output", "o.jsonl"), {**pair, "o.jsonl": samples}, ("o.jsonl", "1")),
        "an unknown option": (("--sample", "one=a.jsonl"), pair, ("--sample",)),
    }
    for what, (given, content, parts) in found.items():
        yield Case(f"responses/annotate/{what}", ("annotate.py", *given), refused(*parts), files(content))
