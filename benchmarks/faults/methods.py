"""Methods of one's own, by file: what the class lacks, gives or raises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.faults.cases import Case, Right, files, refused, said, words
from benchmarks.faults.kit import begun

COMMAND = words(
    "compare.py --model kit/model --dataset kit/pairs.jsonl --config kit/tiny.yaml --output out --report false "
    "--max-steps 1 --algorithms"
)

PAIRWISE = '''"""A loss of my own."""
from dataclasses import dataclass
from preflab import Pair, Pairwise, option

@dataclass(frozen=True)
class MyConfig:
    """Fields."""
    beta: float = option(0.1, "how far", minimum=0.0)

class Mine(Pairwise):
    """Hinge."""
    Config = MyConfig

    def pair_loss(self, pair):
        return (1 - self.config.beta * pair.margin).clamp(min=0.0)
'''
WHOLE = '''"""A loss of my own."""
from dataclasses import dataclass
from preflab import Loss, LossMethod, Needs, option

@dataclass(frozen=True)
class MyConfig:
    """Fields."""
    beta: float = option(0.1, "how far", minimum=0.0)

class Mine(LossMethod):
    """Likelihood."""
    Config = MyConfig
    needs = Needs(responses="pair", scores=("policy",))
    training = {}
    metrics = {}

    def __init__(self, config):
        self.config = config

    def loss(self, batch, scores):
        return Loss(-scores.logps.sum(-1)[:, 0])
'''
RIGHT = {
    "a pairwise loss": PAIRWISE,
    "a whole class": WHOLE,
    "neither training nor metrics": WHOLE.replace("    training = {}\n    metrics = {}\n", ""),
}
RETURN, CLAMP = "return Loss(-scores.logps.sum(-1)[:, 0])", "return (1 - self.config.beta * pair.margin).clamp(min=0.0)"

MODULES: dict[str, str] = {
    "nothing in it": "",
    "a syntax error": "class Mine(:\n",
    "bad indentation": PAIRWISE.replace("    Config", " Config"),
    "an import of nothing": "import no_such_module\n" + PAIRWISE,
    "an error in it": "raise ValueError('no licence')\n",
    "an exit in it": "raise SystemExit(0)\n",
    "an error of its own kind in it": "class Stop(BaseException): ...\nraise Stop('now')\n",
    "a recursion in it": "def g(): return g()\ng()\n",
    "an unknown base": "class Mine(Pairwise): ...\n",
    "a function": "def Mine(config): ...\n",
    "a number": "Mine = 3\n",
    "an instance": PAIRWISE + "Mine = Mine(MyConfig())\n",
    "another name": PAIRWISE.replace("class Mine", "class Yours"),
    "zeros": "\0" * 50,
}
CLASSES: dict[str, tuple[str, str]] = {
    "no Config": ("    Config = MyConfig\n", ""),
    "a Config that is no dataclass": ("@dataclass(frozen=True)\n", ""),
    "a Config that is a mapping": ("Config = MyConfig", "Config = {'beta': 0.1}"),
    "a Config that is None": ("Config = MyConfig", "Config = None"),
    "a Config with a field without a default": ('beta: float = option(0.1, "how far", minimum=0.0)', "beta: float"),
    "a Config with a wrong default": ("option(0.1,", "option('small',"),
    "a Config with a default out of bounds": ("option(0.1,", "option(-1.0,"),
    "a Config with a field of an unknown type": ("beta: float", "beta: 'Tensor'"),
    "a Config that fails": ("    beta:", '    def __post_init__(self): raise RuntimeError("no")\n    beta:'),
    "no needs": ('    needs = Needs(responses="pair", scores=("policy",))\n', ""),
    "needs that are a mapping": ('Needs(responses="pair", scores=("policy",))', '{"responses": "pair"}'),
    "needs of an unknown kind": ('responses="pair"', 'responses="triple"'),
    "needs of an unknown role": ('scores=("policy",)', 'scores=("polcy",)'),
    "needs of a role as text": ('scores=("policy",)', 'scores="policy"'),
    "needs that train nobody": ('scores=("policy",)', 'scores=("policy",), trains=()'),
    "needs that train the reference": ('scores=("policy",)', 'scores=("policy",), trains=("reference",)'),
    "needs of an unknown unit": ('scores=("policy",)', 'scores=("policy",), unit="word"'),
    "no kind": ("class Mine(LossMethod)", "class Mine"),
    "an unknown kind": ("    metrics = {}\n", "    kind = 'lossy'\n"),
    "another kind": ("    metrics = {}\n", "    kind = 'trainer'\n"),
    "training of an unknown field": ("training = {}", 'training = {"learning_rte": 1e-3}'),
    "training of a wrong type": ("training = {}", 'training = {"learning_rate": "high"}'),
    "training that is a list": ("training = {}", "training = [1]"),
    "metrics that are a list": ("metrics = {}", 'metrics = ["accuracy"]'),
    "no loss": ("def loss(", "def los("),
    "a loss that is no function": ("    def loss(self, batch, scores):\n        " + RETURN, "    loss = 3"),
    "a loss of other arguments": ("def loss(self, batch, scores)", "def loss(self, batch)"),
    "an __init__ of other arguments": ("def __init__(self, config):", "def __init__(self):"),
    "an __init__ that fails": ("self.config = config", "raise ValueError('no')"),
    "an __init__ that exits": ("self.config = config", "raise SystemExit(0)"),
}
LOSSES: dict[str, str] = {
    "nothing": "pass",
    "a bare tensor": "return -scores.logps.sum(-1)[:, 0]",
    "a number": "return 0.5",
    "a Loss of a number": "return Loss(0.5)",
    "a Loss of nothing": "return Loss(None)",
    "the mean": "return Loss(-scores.logps.sum(-1)[:, 0].mean())",
    "all responses": "return Loss(-scores.logps.sum(-1))",
    "one row too few": "return Loss(-scores.logps.sum(-1)[1:, 0])",
    "no gradient": "return Loss(-scores.logps.sum(-1)[:, 0].detach())",
    "integers": "return Loss((-scores.logps.sum(-1)[:, 0]).long())",
    "complex numbers": "return Loss((-scores.logps.sum(-1)[:, 0]) * 1j)",
    "NaN": "return Loss(-scores.logps.sum(-1)[:, 0] * float('nan'))",
    "infinity": "return Loss(-scores.logps.sum(-1)[:, 0] / 0)",
    "an undeclared metric": (
        "from preflab import mean_of\n        v = scores.logps[:, 0, 0]\n        return Loss(v, {'margn': mean_of(v)})"
    ),
    "a metric that is a number": "return Loss(-scores.logps.sum(-1)[:, 0], {'accuracy': 0.5})",
    "metrics that are a list": "return Loss(-scores.logps.sum(-1)[:, 0], [1])",
    "an error": "raise ValueError('no such loss')",
    "an unknown name": "return Loss(scres.logps)",
    "what was not asked for": "return Loss(-scores.reference_logps.sum(-1)[:, 0])",
    "unknown feedback": "return Loss(-scores.logps.sum(-1)[:, 0] * batch.feedback.wight)",
    "an exit": "raise SystemExit(0)",
    "an error of its own kind": "class Stop(BaseException): ...\n        raise Stop('now')",
    "a recursion": "return self.loss(batch, scores)",
    "shapes that do not fit": "return Loss((scores.logps @ scores.logps)[:, 0])",
    "another device": "return Loss((-scores.logps.sum(-1)[:, 0]).to('no_such_device'))",
    "a changed batch": "batch.response_ids.zero_()\n        raise RuntimeError('changed')",
}
DIVERGED = ("NaN", "infinity")
"""What a learning rate may do as well: the method is named, and not its file."""

PAIR_LOSSES = (
    "return None",
    "return 0.5",
    "return pair.logps",
    "return pair.margin.mean()",
    "return pair.margin.detach()",
    "return pair.margn",
    "raise KeyError('x')",
    "return pair.margin * float('nan')",
    "import sys; sys.exit(0)",
    "return -pair.margin, pair.margin",
)


def cases(seed: int) -> Iterator[Case]:
    """Yield every fault of a method's file."""
    for what, module in MODULES.items():
        yield case(f"module/{what}", module)
    for what, (old, new) in CLASSES.items():
        if old not in WHOLE:
            raise ValueError(f"{what}: {old!r} is not in the method")
        yield case(f"class/{what}", WHOLE.replace(old, new))
    for what, code in LOSSES.items():
        right = refused("mine" if what in DIVERGED else "mine.py")
        yield case(
            f"loss gives {what}", WHOLE.replace(RETURN, code), *(said("margn") if "undeclared" in what else ()), *right
        )
    for code in PAIR_LOSSES:
        yield case(f"pair loss/{code}", PAIRWISE.replace(CLAMP, code), *refused("mine" if "nan" in code else "mine.py"))
    for what, module in RIGHT.items():
        yield Case(
            f"methods/odd but right/{what}",
            (*COMMAND, "mine.py:Mine"),
            said(),
            written(module),
        )
    for place in (
        "mine.txt:Mine",
        "mine.py:Mine:Mine",
        "os:system",
        "json:loads",
        "mine.py:MyConfig",
        "kit:Mine",
        "mine:Mine,mine:Mine",
    ):
        yield Case(
            f"methods/place/{place}",
            (*COMMAND, place),
            refused(place.split(":")[0]),
            written(PAIRWISE),
        )
    for given in (("--mine.beta", "1"), ("--Mine.beta", "-1"), ("--Mine.bta", "1"), ("--Mine.beta", "high")):
        parts = "beta|bta|mine"
        yield Case(
            f"methods/settings/{' '.join(given)}",
            (*COMMAND, "mine.py:Mine", *given),
            refused(parts),
            written(PAIRWISE),
        )


def written(module: str) -> Callable[[Path], None]:
    """Return what writes the method's file, and what comparisons stand on."""
    return begun("run", files({"mine.py": module}))


def case(name: str, module: str, *right: Right) -> Case:
    """Return a case in which a file holds the method."""
    return Case(
        f"methods/{name}",
        (*COMMAND, "mine.py:Mine"),
        right or refused("mine.py"),
        written(module),
    )
