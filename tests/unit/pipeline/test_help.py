"""``--help`` shows what would be used, from the layers that a run is made of."""

from __future__ import annotations

import dataclasses
import re

import pytest

from preflab.errors import UserError
from preflab.eval.pipeline.asked import Asked
from preflab.eval.pipeline.session import SHARED, Session
from preflab.experiment.opening import with_rows_aside
from preflab.method import registry
from preflab.recipes import compare, conformance, evaluate, train
from preflab.settings.helping import as_written
from preflab.settings.training import TrainConfig

EXACT = {"world": "exact", "output": "runs/conformance"}
RECIPES = {
    "compare": (compare.CONFIGS, {"often": compare.OFTEN, "trained": compare.as_compared}),
    "evaluate": (evaluate.CONFIGS, {"often": evaluate.OFTEN, "stages": False}),
    "conformance": (conformance.CONFIGS, {"often": conformance.OFTEN, "stages": False, "preset": EXACT}),
    "train": (train.CONFIGS, {"often": train.OFTEN}),
}


def read(recipe, argv, flat=None):
    configs, how = RECIPES[recipe]
    return Session.read("A recipe.", configs, flat=flat, argv=argv, **how)


def helped(capsys, recipe, argv, topics=("all",), flat=None):
    """Return a help text, and who says so and the value of each of its options."""
    with pytest.raises(SystemExit) as left:
        read(recipe, [*argv, "--help", *topics], flat)
    assert left.value.code == 0
    text = capsys.readouterr().out
    found = {}
    for option in re.split(r"^  (?=--)", text.partition("methods, as they would")[0], flags=re.MULTILINE)[1:]:
        name, _, rest = option.partition(" ")
        value = re.search(r"\[(default|given|here):\s+([^]]*)\]\s*\Z", rest.partition("\n\n")[0])
        key = name.strip().removeprefix("--").replace("-", "_")
        found[key] = (value[1], "".join(value[2].split())) if value else ("", "")
    return found, text


def written(value, meant=None):
    """Return how the help shows a value that stands for another."""
    parts = [as_written(value)] + [as_written(meant)] * (meant not in (None, value))
    return "".join(",whichis".join(filter(None, parts)).split())


@pytest.fixture
def own(tiny_model_path, tmp_path):
    (tmp_path / "pairs.jsonl").write_text("{}\n")
    return ["--model", str(tiny_model_path), "--dataset", str(tmp_path / "pairs.jsonl")]


@pytest.fixture
def real(tmp_path):
    (tmp_path / "pairs.jsonl").write_text("{}\n")
    return ["--model", "owner/some-135M", "--dataset", str(tmp_path / "pairs.jsonl")]


def in_use(session, methods=()):
    """Return what a session really uses of every field, and what that stands for, as the code that runs it finds it."""
    used = {
        field.name: (getattr(config, field.name), None)
        for config in session.configs.values()
        for field in dataclasses.fields(config)
    }
    used["world"] = session.world.world, session.world.kind
    used["policy_reward"] = session.rewards.policy_reward, session.rewards.maximised(session.world)
    tuned = bool(used.get("tune", (0, None))[0])
    aside = with_rows_aside(session.world, methods, tuned=tuned).validation_fraction
    used["validation_fraction"] = session.world.validation_fraction, aside
    if "redraw" in used:
        used["redraw"] = session.config(compare.CompareConfig).redraw, session.config(compare.CompareConfig).sources
    return used


OPTIONS = [
    [],
    ["--quick"],
    ["--seeds", "3", "4", "--max-steps", "7", "--lora_r", "4", "--sft", "none"],
    ["--dtype", "float32", "--eval-prompts", "9", "--no-report"],
]
WORLDS = {"reviews": [], "exact": ["--world", "exact"], "tiny": None, "135M": None}


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: " ".join(options) or "plain")
@pytest.mark.parametrize("recipe", ["compare", "evaluate", "conformance"])
def test_no_default_of_a_recipes_help_is_another_than_the_one_used(recipe, options, world, own, real, capsys):
    if recipe == "conformance":
        options = [option for option in options if option != "--no-report"]
    if recipe != "compare" and "--max-steps" in options:
        options = [*options[:3], *options[5:]]
    argv = [*{"tiny": own, "135M": real}.get(world, WORLDS[world]), *options]
    if recipe == "conformance" and world in ("tiny", "135M"):
        pytest.skip("methods are held to their optima in a world of the project's own")
    shown, _ = helped(capsys, recipe, argv)
    session = read(recipe, argv)
    used = in_use(session)
    assert {name: shown[name][1] for name in used} == {name: written(*value) for name, value in used.items()}
    given = {name for name, (who, _) in shown.items() if who == "given"}
    spelt = {"lora_r": "lora_rank", "no_report": "report"}
    names = [word.strip("-").replace("-", "_") for word in argv if word.startswith("--")]
    assert given == {spelt.get(name, name) for name in names if name != "help"}


@pytest.mark.parametrize("world", ["reviews", "135M"])
@pytest.mark.parametrize("name", registry.registered())
def test_no_default_of_a_methods_help_is_another_than_the_one_used(name, world, real, capsys):
    argv = real if world == "135M" else []
    shown, _ = helped(capsys, "train", argv, flat=name)
    session = read("train", argv, name)
    method = session.method(name)
    used = {**in_use(session, [method]), **{field: (value, None) for field, value in method.settings.items()}}
    if name != "best-of-n":
        train, parts = method.train, method.train.optimiser_batch // method.train.micro_batch
        used["train_batch_size"] = train.train_batch_size, train.optimiser_batch
        used["gradient_accumulation_steps"] = train.gradient_accumulation_steps, parts
    assert {field: shown[field][1] for field in used} == {field: written(*value) for field, value in used.items()}


COUNTED = ("train_batch_size", "gradient_accumulation_steps")
"""What follows from other sizes, which the test above looks at."""


@pytest.mark.parametrize(
    ("flat", "options"),
    [
        ("dpo", ["--quick"]),
        ("dpo", ["--learning_rate", "0.3", "--dpo.beta", "0.4"]),
        ("ppo", ["--rollout-prompts", "16", "--per-device-train-batch-size", "16", "--kl-coefficient", "0"]),
        ("kto", ["--pair.beta", "0.7", "--single.beta", "0.8"]),
        ("reward", ["--max-steps", "3"]),
    ],
)
def test_a_methods_help_shows_it_as_it_would_be_trained(flat, options, own, capsys):
    shown, _ = helped(capsys, "train", [*own, *options], (flat.upper(),), flat)
    settings = read("train", [*own, *options], flat).method(flat).settings
    used = {name: written(value) for name, value in settings.items() if name not in COUNTED}
    assert {name: shown[name][1] for name in used} == used


COMPARED = [
    [],
    ["--quick"],
    ["--max-steps", "5"],
    ["--match", "tokens", "--budget", "1e5"],
    ["--algorithms", "ipo", "RLOO", "--rloo.learning_rate", "0.25", "--pair.beta", "0.4"],
]


@pytest.mark.parametrize("options", COMPARED, ids=lambda options: " ".join(options) or "plain")
def test_a_comparisons_help_shows_methods_as_they_would_be_trained(options, own, capsys):
    argv = [*own, *options]
    asked = Asked.by(read("compare", argv))
    methods = [*asked.session.stage_methods(), *(entry.method for entry in asked.entries)]
    budget = asked.session.config(compare.CompareConfig).given_budget
    for method in methods:
        shown, _ = helped(capsys, "compare", argv, (method.name,))
        settings = method.settings
        if budget is not None and method.name in ("dpo", "ppo"):
            settings |= {"budget": budget.amount, "budget_kind": budget.kind}
        used = {f"{method.name}.{name}": written(value) for name, value in settings.items() if name not in COUNTED}
        assert {name: shown[name][1] for name in used} == used
    _, text = helped(capsys, "compare", argv, ())
    lines = text.partition("methods, as they would")[2].splitlines()[1:]
    assert [line.split()[0] for line in lines if line.startswith("  ")] == [method.name for method in methods]


def test_a_method_of_ones_own_has_a_help_too(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\nfrom preflab import Pairwise, log_sigmoid, option\n\n\n"
        "@dataclass(frozen=True)\nclass C:\n    width: float = option(0.5, 'how wide')\n\n\n"
        "class Mine(Pairwise):\n    'A loss of mine.'\n\n    Config = C\n\n"
        "    def pair_loss(self, pair):\n        return -log_sigmoid(self.config.width * pair.margin)\n"
    )
    place = f"{tmp_path / 'mine.py'}:Mine"
    shown, text = helped(capsys, "compare", ["--algorithms", place, "--Mine.width", "2"], (place,))
    assert shown[f"{place}.width".replace("-", "_")][1] == "2.0"
    assert "A loss of mine." in text
    shown, _ = helped(capsys, "compare", ["--algorithms", place, "--Mine.width", "2"], ("Mine", "dpo"))
    assert (shown["Mine.width"][1], shown["dpo.beta"][1]) == ("2.0", "0.1")
    with pytest.raises(UserError, match=r"--help 'dopo': there is no such method .*'dpo'"):
        read("compare", ["--help", "dopo"])


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_short_help_fits_a_screen_and_names_options_that_there_are(recipe, capsys, monkeypatch):
    flat = "ppo" if recipe == "train" else None
    for columns in ("80", "200"):
        monkeypatch.setenv("COLUMNS", columns)
        _, text = helped(capsys, recipe, [], (), flat)
        assert len(text.splitlines()) <= 40
        assert max(map(len, text.splitlines())) <= 120
        assert "--help all" in text
    classes = {**SHARED, **RECIPES[recipe][0], **({"train": TrainConfig} if flat else {})}
    known = {field.name for cls in classes.values() for field in dataclasses.fields(cls)}
    assert {name for names in RECIPES[recipe][1]["often"].values() for name in names} <= known


def test_no_method_has_a_field_that_means_something_else_beside_it():
    """Options without a prefix would otherwise take one another's place."""
    shared = {field.name for cls in (*SHARED.values(), *train.CONFIGS.values()) for field in dataclasses.fields(cls)}
    for name in registry.registered():
        own = {field.name for field in dataclasses.fields(registry.load(name).Config)}
        assert own & shared == set(), name


def test_options_that_no_run_could_use_do_not_keep_the_help_away(capsys):
    shown, text = helped(capsys, "train", ["--world", "real"], flat="dpo")
    assert shown["learning_rate"][1] == "0.001"
    assert "values are those without these options, which cannot be used: config: the real world needs --model" in text


@pytest.mark.parametrize("where", ["option", "file"])
def test_one_setting_given_twice_is_refused_where_it_differs(where, tmp_path):
    options = ["--max-steps", "2", "--dpo.max-steps", "3"]
    if where == "file":
        (tmp_path / "mine.yaml").write_text("max_steps: 2\ndpo: {max_steps: 3}\n")
        options = ["--config", str(tmp_path / "mine.yaml")]
    with pytest.raises(UserError, match=r"--max-steps is 2 and --dpo\.max-steps is 3, which are one; keep one"):
        read("train", options, "dpo")
    same = read("train", ["--max-steps", "2", "--dpo.max-steps", "2"], "dpo")
    assert same.method("dpo").train.max_steps == 2


def test_options_beat_the_file_whichever_of_the_two_names_they_use(tmp_path):
    for content in ("max_steps: 2\n", "dpo: {max_steps: 2}\n", "DPO: {max_steps: 2}\n", "pair: {max_steps: 2}\n"):
        (tmp_path / "mine.yaml").write_text(content)
        for option in ("--max-steps", "--dpo.max-steps", "--DPO.max_steps"):
            argv = ["--config", str(tmp_path / "mine.yaml"), option, "3"]
            assert read("train", argv, "dpo").method("dpo").train.max_steps == 3


@pytest.mark.parametrize(("value", "message"), [("0", "nothing is learnt"), ("-1", "at least 0")])
def test_a_learning_rate_at_which_nothing_is_learnt_is_refused(value, message):
    with pytest.raises(UserError, match=message):
        read("train", ["--learning-rate", value], "dpo").method("dpo")
