"""Reward functions of one's own, and prompt files of the world that they make."""

from __future__ import annotations

import os
from collections.abc import Iterator

from benchmarks.faults import kit
from benchmarks.faults.cases import Case, Content, files, lines, refused, said, words

PROMPTS = "".join(f"{kit.question(i)}\n" for i in range(24))
COMMAND = words(
    "dpo.py --model kit/model --config kit/tiny.yaml --output out --cache cache --max-pairs 48 --max-steps 1 --prompts"
)
GOOD = "def f(prompt, response):\n    return float(response.count('a'))\n"


def body(code: str) -> str:
    """Return a reward function with this body."""
    return "def f(prompt, response):\n    " + code.replace("\n", "\n    ") + "\n"


MODULES: dict[str, str] = {
    "nothing in it": "",
    "a syntax error": "def f(prompt, response:\n    return 1\n",
    "bad indentation": "def f(prompt, response):\nreturn 1\n",
    "a tab and blanks": "def f(prompt, response):\n\tif prompt:\n        return 1\n",
    "an import of nothing": "import no_such_module\n" + GOOD,
    "an error in it": "raise ValueError('no licence')\n" + GOOD,
    "an exit in it": "import sys\nsys.exit(0)\n" + GOOD,
    "an exit with words in it": "raise SystemExit('bye')\n" + GOOD,
    "an interrupt of its own in it": "class Stop(KeyboardInterrupt): ...\nraise Stop('now')\n" + GOOD,
    "an error of its own kind": "class Stop(BaseException): ...\nraise Stop('now')\n" + GOOD,
    "a recursion in it": "def g(): return g()\ng()\n" + GOOD,
    "zeros": "\0" * 99,
    "another name": GOOD.replace("def f", "def g"),
    "a number": "f = 3\n",
    "text": "f = 'reward'\n",
    "None": "f = None\n",
    "a list": "f = [1, 2]\n",
    "a class": "class f:\n    def __init__(self, prompt, response): ...\n",
    "a module": "import math as f\n",
    "no arguments": "def f():\n    return 1.0\n",
    "one argument": "def f(text):\n    return 1.0\n",
    "three arguments": "def f(prompt, response, third):\n    return 1.0\n",
    "named arguments alone": "def f(*, prompt, response):\n    return 1.0\n",
    "a coroutine": "async def f(prompt, response):\n    return 1.0\n",
    "a generator": "def f(prompt, response):\n    yield 1.0\n",
}
CALLS: dict[str, str] = {
    "gives nothing": "pass",
    "gives text": "return '1.0'",
    "gives bytes": "return b'1'",
    "gives NaN": "return float('nan')",
    "gives infinity": "return float('-inf')",
    "gives a complex number": "return 1 + 2j",
    "gives a list": "return [1.0]",
    "gives a mapping": "return {'score': 1.0}",
    "gives a pair": "return 1.0, 2.0",
    "gives an array of two": "import numpy\nreturn numpy.ones(2)",
    "gives a tensor of two": "import torch\nreturn torch.ones(2)",
    "gives an integer of 400 digits": "return 10 ** 400",
    "gives chance": "import random\nreturn random.random()",
    "raises": "raise ValueError('no such word')",
    "fails an assertion": "assert not response, 'too long'\nreturn 1.0",
    "looks up what is not there": "return {}['score']",
    "divides by the length": "return 1 / len(response)",
    "exits": "import sys\nsys.exit(0)",
    "exits with words": "raise SystemExit('bye')",
    "raises an error of its own kind": "class Stop(BaseException): ...\nraise Stop('now')",
    "stops an iteration": "raise StopIteration",
    "leaves a generator": "raise GeneratorExit",
    "calls itself": "return f(prompt, response)",
    "runs out of memory": "raise MemoryError",
    "asks for a name": "return reward",
    "raises an error with no text": "raise RuntimeError",
    "raises an error that cannot be shown": "class E(Exception):\n    def __str__(self): return 1 / 0\nraise E",
    "raises an error of a megabyte": "raise ValueError('a' * 1_000_000)",
    "raises an error that clears the screen": "raise ValueError('\\x1b[2J\\x1b[31m')",
}
LATER: dict[str, str] = {
    "raises later": "raise ValueError('tired')",
    "gives nothing later": "return None",
    "gives NaN later": "return float('nan')",
    "exits later": "import sys\nsys.exit(0)",
    "raises an error of its own kind later": "class Stop(BaseException): ...\nraise Stop('now')",
}
RIGHT: dict[str, str] = {
    "a numpy number": "import numpy\nreturn numpy.float32(len(response))",
    "a tensor of one": "import torch\nreturn torch.tensor(float(len(response)))",
    "an integer": "return len(response)",
    "a fraction": "import fractions\nreturn fractions.Fraction(len(response), 7)",
    "a truth value": "return 'a' in response",
    "prints": "print('called')\nreturn float(len(response))",
}


def cases(seed: int) -> Iterator[Case]:
    """Yield every fault of a reward function, its place and the prompts it is asked about."""

    def case(name: str, module: str, *parts: str, place: str = "mine.py:f") -> Case:
        make = files({"mine.py": module, "p.txt": PROMPTS})
        return Case(f"rewards/{name}", (*COMMAND, "p.txt", "--reward", place), refused(*parts), make)

    for what, module in MODULES.items():
        yield case(f"module/{what}", module, "mine.py")
    for what, code in CALLS.items():
        yield case(f"call/{what}", body(code), "mine.py")
    for what, code in LATER.items():
        counted = "calls = []\n" + body(
            "calls.append(1)\nif len(calls) > 20:\n    "
            + code.replace("\n", "\n    ")
            + "\nreturn float(len(response))"
        )
        yield case(f"call/{what}", counted, "mine.py")
    for what, place in PLACES.items():
        yield case(
            f"place/{what}", GOOD, "reward|form" if not place.strip() else place.partition(":")[0] or place, place=place
        )
    for what, code in RIGHT.items():
        make = files({"mine.py": body(code), "p.txt": PROMPTS})
        yield Case(f"rewards/odd but right/{what}", (*COMMAND, "p.txt", "--reward", "mine.py:f"), said(), make)
    for what, (file, content) in PROMPT_FILES.items():
        make = files({"mine.py": GOOD, file: content})
        yield Case(
            f"rewards/prompts/{what}",
            (*COMMAND, file, "--reward", "mine.py:f"),
            refused("token limits" if what == "all too long" else file.split(".")[0]),
            make,
        )
    for what, given in {
        "with data": ("--dataset", "kit/pairs.jsonl", "--world", "function"),
        "with a template": ("--chat-template", "kit/template.jinja"),
    }.items():
        command = (*COMMAND, "p.txt", "--reward", "mine.py:f", *given)
        yield Case(
            f"rewards/together/{what}",
            command,
            refused("dataset|chat_template"),
            files({"mine.py": GOOD, "p.txt": PROMPTS}),
        )


PLACES = {
    "no file": "nowhere.py:f",
    "no such name": "mine.py:reward",
    "no name": "mine.py:",
    "no sign": "mine.py",
    "no module": "no.such.module:f",
    "a name alone": ":f",
    "two signs": "mine.py:f:g",
    "a folder": "kit:f",
    "another suffix": "mine.txt:f",
    "a module of Python's": "os:system",
    "a module without it": "json:nothing",
    "blanks": "   ",
    "a method": "mine.py:f.g",
}
PROMPT_FILES: dict[str, tuple[str, Content]] = {
    "empty": ("q.txt", ""),
    "blank": ("q.txt", "\n \n"),
    "one": ("q.txt", "What?\n"),
    "one, many times": ("q.txt", "What?\nwhat?\n WHAT? \n"),
    "not UTF-8": ("q.txt", b"What\xff?\nWho?\n"),
    "zeros": ("q.txt", bytes(1000)),
    "UTF-16": ("q.txt", PROMPTS.encode("utf-16")),
    "all too long": ("q.txt", "".join(f"{'ab' * 400}{i}\n" for i in range(9))),
    "an unknown suffix": ("q.md", PROMPTS),
    "no prompt in it": ("q.jsonl", lines([{"text": "What?"}] * 9)),
    "numbers": ("q.jsonl", lines([{"prompt": 3}] * 9)),
    "no JSON": ("q.jsonl", "What?\n" * 9),
    "a folder": ("q.txt", os.mkdir),
    "an endless pipe": ("q.txt", os.mkfifo),
    "an empty csv": ("q.csv", ""),
    "a csv of other columns": ("q.csv", "question\nWhat?\nWho?\n"),
}
