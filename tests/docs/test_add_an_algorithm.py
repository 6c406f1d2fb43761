"""docs/add_an_algorithm.md, followed to the letter: its files, its commands, its numbers."""

from __future__ import annotations

import json
import math
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from tiny import make_groups, train

from preflab import Pair, UserError
from preflab.data.encoding import Encoder
from preflab.eval.conformance.workbench import make_roles
from preflab.method import registry
from preflab.method.configured import Method, make_method
from preflab.model.base import load_base
from preflab.model.roles import Roles
from preflab.settings.training import LoraSettings
from preflab.training.offline import OfflineSource
from preflab.training.trainer import run_training

PAGE = (Path(__file__).parents[2] / "docs" / "add_an_algorithm.md").read_text(encoding="utf-8")
FILES = {m[1]: m[2] for m in re.finditer(r"<!-- file: (\S+) -->\n```\w+\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)}
COMMANDS = [c for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE) for c in block.splitlines()]
METHOD, POLICY = "my_loss.py:MyLoss", "my_policy.py:MyPolicy"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the page's files, as the working directory; the registry forgets afterwards."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    registry.registered.cache_clear()
    yield tmp_path
    registry.registered.cache_clear()


@pytest.fixture
def installed(folder, monkeypatch):
    """The page's package on the path, with the metadata an installer would write for its pyproject.toml."""
    project = pytest.importorskip("tomllib").loads(FILES["pyproject.toml"])["project"]
    package, info = folder / "my_package", folder / "my_package-0.1.dist-info"
    package.mkdir()
    info.mkdir()
    (package / "__init__.py").touch()
    (folder / "my_loss.py").rename(package / "my_loss.py")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = [f"{name} = {place}" for name, place in project["entry-points"][registry.GROUP].items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{registry.GROUP}]", *points]) + "\n")
    monkeypatch.syspath_prepend(folder)
    yield folder
    for name in ("my_package", "my_package.my_loss"):
        sys.modules.pop(name, None)


@pytest.fixture
def preferences(folder):
    """A data file of the simplest format: the chosen response of each prompt says word1, the rejected word2."""
    rows = [
        {"prompt": f"word{3 + i} word{3 + j}", "chosen": "word1 word1", "rejected": "word2 word2 word2"}
        for i in range(12)
        for j in range(8)
    ]
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", ["my_loss.py", "my_policy.py"])
def test_the_file_is_short_and_imports_only_preflab(name):
    lines = FILES[name].splitlines()
    assert len(lines) <= 30
    imported = {line.split()[1].split(".")[0] for line in lines if re.match(r"\s*(from|import) ", line)}
    assert imported - set(sys.stdlib_module_names) == {"preflab", "torch"}  # torch: for type checking only
    assert "if TYPE_CHECKING:\n    from torch" in FILES[name]


def test_the_loss_is_what_the_page_says(folder):
    loss = make_method(METHOD).algorithm
    # log π − log π_ref: +3 for the chosen and −1 for the rejected; the reference itself; +12 and 0.
    logps = torch.tensor([[-4.0, -9.0], [-7.0, -8.0], [5.0, -8.0]], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([[-7.0, -8.0], [-7.0, -8.0], [-7.0, -8.0]], dtype=torch.float64)
    values = loss.pair_loss(Pair(logps, reference, torch.full((3, 2), 5)))
    # 1 − 0.1 · 4; 1 − 0; max(0, 1 − 0.1 · 12). Exact but for the rounding of 0.1.
    torch.testing.assert_close(values, torch.tensor([0.6, 1.0, 0.0], dtype=torch.float64), atol=1e-12, rtol=0)
    (gradient,) = torch.autograd.grad(values.sum(), logps)
    # Chosen up, rejected down, β each; nothing once the margin is reached. Fails if the sign is flipped.
    expected = torch.tensor([[-0.1, 0.1], [-0.1, 0.1], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(gradient, expected, atol=1e-12, rtol=0)


def test_the_worked_values_stand_on_the_page():
    text = " ".join(PAGE.split())
    assert "the margin is 3 − (−1) = 4 and the loss 1 − 0.1 · 4 = 0.6" in text
    assert "from margin 10 on it is 0" in text


def test_the_margin_rises_in_the_real_loop(folder, preferences, tiny_model_path, tiny_tokenizer):
    method = make_method(
        METHOD, {"max_steps": 12, "per_device_train_batch_size": 16, "learning_rate": 5e-3, "logging_steps": 1}
    )
    groups, _ = Encoder(tiny_tokenizer).encode_pairs(map(json.loads, preferences.read_text().splitlines()))
    base = load_base(str(tiny_model_path), LoraSettings(dtype="float32"), device="cpu")
    roles = Roles(base, LoraSettings(lora_rank=4), seed=0)
    source = OfflineSource(groups, method.train, tiny_tokenizer.pad_token_id, seed=0)
    run_training(roles, method.algorithm, source, method.train, folder, seed=0, title="MyLoss")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    # A fresh adapter changes nothing: the policy starts at the reference, where the loss is 1.
    assert lines[0]["margin"] == pytest.approx(0.0, abs=1e-4)
    assert lines[0]["loss"] == pytest.approx(1.0, abs=1e-4)
    assert lines[-1]["margin"] > 0.5
    assert lines[-1]["accuracy"] == 1.0
    assert all(a["margin"] < b["margin"] for a, b in zip(lines, lines[4:], strict=False))


def run(command: str, monkeypatch, *more: str) -> None:
    """Run one of the page's commands in this process, a Python start being slower than the run."""
    assert command in COMMANDS
    python, script, *arguments = shlex.split(command)
    assert (python, script) == ("python", "recipes/compare.py")
    from preflab.recipes import compare

    monkeypatch.setattr(sys, "argv", [script, *arguments, *more])
    compare.main()


def test_the_command_runs(folder, preferences, tiny_model_path, monkeypatch):
    size = ["--max-steps", "2", "--eval-prompts", "8", "--eval-pairs", "4", "--lora-rank", "4"]
    size += ["--seeds", "0", "--interpolate", "1"]
    limits = ["--max-prompt-tokens", "8", "--max-response-tokens", "4"]
    data = ["--model", str(tiny_model_path), "--dataset", str(preferences)]
    run(f"python recipes/compare.py --algorithms dpo,{METHOD}", monkeypatch, *data, *size, *limits)
    comparison = json.loads((folder / "runs/default/comparison.json").read_text())
    assert set(comparison["methods"]) == {"sft", "dpo", "MyLoss"}
    assert math.isfinite(comparison["methods"]["MyLoss"]["kl"]["mean"])
    # What the page says to delete after a change to the loss.
    stages = {path.name.rpartition("-")[0] for path in (folder / "runs/default/stages").glob("*MyLoss-*")}
    assert stages == {"MyLoss-seed0", "eval-MyLoss-seed0"}


def test_the_policy_gradient_is_what_the_page_says(folder):
    algorithm = make_method(POLICY).algorithm
    # Any multiple of a reward, and any constant on top, gives the same ranks.
    rewards = torch.tensor([[3.0, 1.0, 1.0], [7.0, -9.0, 0.5]], dtype=torch.float64)
    expected = torch.tensor([[1.0, -0.5, -0.5], [1.0, -1.0, 0.0]], dtype=torch.float64)
    for changed in (rewards, 10 * rewards + 3):
        assert torch.equal(algorithm.advantages(changed, None), expected)
    assert "rewards 3, 1, 1 of one prompt's three samples give advantages 1, −½, −½" in " ".join(PAGE.split())
    with pytest.raises(UserError, match="samples_per_prompt is 1; it must be at least 2"):
        make_method(POLICY, {"samples_per_prompt": 1})


def test_the_policy_gradient_runs(folder, preferences, tiny_model_path, monkeypatch):
    size = ["--max-steps", "2", "--eval-prompts", "8", "--eval-pairs", "4", "--lora-rank", "4"]
    size += ["--seeds", "0", "--interpolate", "1"]
    limits = ["--max-prompt-tokens", "8", "--max-response-tokens", "4"]
    batch = ["--sampled.rollout-prompts", "4", "--sampled.per-device-train-batch-size", "4"]
    data = ["--model", str(tiny_model_path), "--dataset", str(preferences)]
    run(f"python recipes/compare.py --algorithms {POLICY}", monkeypatch, *data, *size, *limits, *batch)
    comparison = json.loads((folder / "runs/default/comparison.json").read_text())
    assert comparison["methods"]["MyPolicy"]["train"]["sampled_tokens"] > 0


def of_tokens(*numbers: float) -> torch.Tensor:
    """Return a number for each token of one response, ``[1, 1, T]``."""
    return torch.tensor([[numbers]], dtype=torch.float64)


def test_the_surrogates_are_what_the_page_says(folder):
    dual, cispo, gspo = (make_method(f"my_surrogates.py:{name}").algorithm for name in ("DualClipPPO", "CISPO", "GSPO"))
    plain, grpo = make_method("ppo").algorithm, make_method("grpo").algorithm
    # A ratio of 4 and A = −2: PPO's 8 ends at 3 · 2. Elsewhere, A > 0 at that ratio included, nothing changes.
    ratio, advantages = of_tokens(4.0, 4.0, 2.0, 0.5, 1.1), of_tokens(-2.0, 2.0, -2.0, -2.0, 1.0)
    assert plain.surrogate(ratio, advantages)[0, 0, 0] == 8.0
    expected = plain.surrogate(ratio, advantages)
    expected[0, 0, 0] = 6.0
    assert torch.equal(dual.surrogate(ratio, advantages), expected)
    # d/d log π of −sg(min(ρ, 1.2)) A log ρ; of GRPO −ρ A, and 0 outside of the clip. Fails if a sign is flipped.
    for algorithm, slopes in ((cispo, (-2.4, 2.4, -1.0)), (grpo, (0.0, 3.0, -1.0))):
        logps = of_tokens(1.5, 1.5, 0.5).log().requires_grad_()
        losses = algorithm.surrogate(logps.exp(), of_tokens(2.0, -2.0, 2.0))
        (gradient,) = torch.autograd.grad(losses.sum(), logps)
        torch.testing.assert_close(gradient, of_tokens(*slopes), atol=1e-12, rtol=0)
    # (2 · ½)^{1/2}; what stands on padding is not looked at.
    mask = of_tokens(1, 1, 0).bool()
    found = gspo.ratio(of_tokens(2.0, 0.5, float("nan")).log(), of_tokens(1.0, 1.0, 1.0).log(), mask)
    torch.testing.assert_close(found[mask], of_tokens(1.0, 1.0).flatten(), atol=1e-12, rtol=0)
    text = " ".join(PAGE.split())
    assert "costs 8 in PPO and 6 with the dual clip" in text
    assert "the gradient −1.2 · 2 = −2.4 in log π, where GRPO's is 0" in text


@pytest.mark.parametrize("name", ["DualClipPPO", "CISPO", "GSPO"])
def test_the_surrogates_learn_in_the_real_loop(folder, name):
    batch = {"per_device_train_batch_size": 4, "learning_rate": 1e-2}
    fields = {"rollout_prompts": 8, "samples_per_prompt": 4, "rollout_epochs": 2, "kl_coefficient": 0.0}
    roles = make_roles()
    roles.reward_function = lambda batch: ((batch.response_ids == 3) & batch.response_mask).sum(-1).float()
    algorithm = make_method(f"my_surrogates.py:{name}", fields | batch).algorithm
    _, _, lines = train(algorithm, folder / "run", roles=roles, groups=make_groups(8), max_steps=24, **batch)
    assert lines[0]["ratio"] == pytest.approx(1.0)
    rewards = [line["reward"] for line in lines if "reward" in line]
    assert sum(rewards[-2:]) > sum(rewards[:2]) + 0.5


def test_the_command_of_the_surrogates_is_read(folder, monkeypatch):
    names = ("DualClipPPO", "CISPO", "GSPO")
    (command,) = [command for command in COMMANDS if "my_surrogates.py" in command]
    assert [method.label for method in methods_of(command, monkeypatch)] == list(names)


def methods_of(command: str, monkeypatch) -> list[Method]:
    """Return the methods that a command would compare."""
    from preflab.eval.pipeline import Result
    from preflab.eval.pipeline.entries import check_entries
    from preflab.recipes import compare

    seen: list[Method] = []

    def note(session):
        seen.extend(entry.method for entry in check_entries(session))
        return Result({}, {})

    monkeypatch.setattr(compare, "compare", note)
    for name in ("show", "write_pages"):
        monkeypatch.setattr(compare, name, lambda *arguments: None)
    run(command, monkeypatch)
    return seen


def test_the_yaml_file_is_read(folder, monkeypatch):
    dpo, mine = methods_of("python recipes/compare.py --config my.yaml", monkeypatch)
    assert (dpo.name, mine.name, mine.label) == ("dpo", METHOD, "MyLoss")
    assert mine.config.beta == 0.05
    assert (mine.train.learning_rate, mine.train.per_device_train_batch_size) == (5e-4, 64)


def test_a_mistake_in_its_field_is_answered(folder):
    with pytest.raises(UserError, match=r"unknown field 'bet' \(did you mean 'beta'"):
        make_method(METHOD, {"bet": 1.0})
    with pytest.raises(UserError, match=r"beta is 0\.0; it must be at least"):
        make_method(METHOD, {"beta": 0.0})


def test_a_package_registers_it(installed, monkeypatch, capsys):
    assert registry.load("my-loss").__module__ == "my_package.my_loss"
    assert "dpo" in registry.registered()
    run("python recipes/compare.py --algorithms list", monkeypatch)
    assert "my-loss            Hinge loss on preference pairs" in capsys.readouterr().out


def test_its_options_are_read(installed, monkeypatch):
    seen = methods_of("python recipes/compare.py --algorithms dpo,my-loss --my-loss.beta 0.05", monkeypatch)
    assert [(m.name, m.config.beta) for m in seen] == [("dpo", 0.1), ("my-loss", 0.05)]


def test_names_are_unique_and_near_misses_named(installed):
    with pytest.raises(UserError, match="did you mean 'my-loss'"):
        registry.load("my-los")
    info = installed / "my_package-0.1.dist-info" / "entry_points.txt"
    info.write_text(f"[{registry.GROUP}]\ndpo = my_package.my_loss:MyLoss\n")
    registry.registered.cache_clear()
    with pytest.raises(UserError, match=r"method 'dpo' is registered twice.*of my-package"):
        registry.registered()
