"""lm-evaluation-harness gives our log-likelihoods: of an adapter on its base, and of the two merged."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from peers import LORA, export, read_lines, run_in

from preflab.data.batches import collate
from preflab.data.encoding import EncodedGroup
from preflab.eval.exports.as_read import Opened, open_pairs
from preflab.eval.metrics import likelihood_accuracy
from preflab.model.base import load_base
from preflab.model.roles import Roles

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def merged(kind, tmp_path_factory):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("merged")
    base = AutoModelForCausalLM.from_pretrained(kind.base)
    PeftModel.from_pretrained(base, kind.policy).merge_and_unload().save_pretrained(folder)
    kind.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def ours(kind):
    """log π(y|x) of both responses by row ``[N, 2]``; and of the blanks that prompts end with, ``[N]``."""
    roles = Roles(load_base(str(kind.base), LORA, device="cpu"), LORA, ("policy",))
    roles.start("policy", kind.policy)
    pairs, _ = open_pairs(str(kind.pairs), Opened.of(str(kind.policy)))
    tokenizer = Opened.of(str(kind.policy)).tokenizer
    found, blanks = {}, {}
    for pair in pairs:
        stripped = len(tokenizer.encode(pair.prompt.rstrip(), add_special_tokens=kind.name == "text"))
        whole = [pair.prompt_ids[stripped:] + response for response in pair.response_ids]
        logps = likelihoods(roles, pair.prompt_ids, pair.response_ids)
        found[pair.row] = logps.tolist()
        blanks[pair.row] = (likelihoods(roles, pair.prompt_ids[:stripped], whole) - logps).mean().item()
    return found, blanks


@torch.no_grad()
def likelihoods(roles, prompt, responses):
    return roles(collate([EncodedGroup(prompt, responses, 0)], 0), ("policy",)).logps.sum(-1)[0]


def lm_eval(folder, arguments, name):
    """Return the harness's figures of a task, and its log-likelihoods by row, the chosen one's first."""
    run_in(
        "lm_eval",
        ["-m", "lm_eval", "--model", "hf", "--model_args", arguments, "--tasks", name, "--include_path", folder / name,
         "--device", "cpu", "--batch_size", "4", "--log_samples", "--output_path", folder / "out"],
        cwd=folder,
        seconds=500,
    )  # fmt: skip
    (results,) = (folder / "out").rglob("results_*.json")
    (samples,) = (folder / "out").rglob("samples_*.jsonl")
    found = {}
    for line in read_lines(samples):
        values = [float(value[0]) for value in line["filtered_resps"]]
        found[line["doc"]["row"]] = values if line["doc"]["label"] == 0 else values[::-1]
    return json.loads(results.read_text())["results"][name], found


@pytest.mark.parametrize("opened", ["adapter", "merged"])
def test_likelihoods_and_accuracy(kind, ours, merged, opened, tmp_path):
    said = export(kind.pairs, "--lm-eval", "held_out", "--model", kind.policy, cwd=tmp_path)
    arguments = next(line for line in said.splitlines() if line.startswith("lm_eval ")).split()[4]
    assert arguments.startswith(f"pretrained={kind.base},peft={kind.policy},dtype=float32")
    if opened == "merged":
        arguments = arguments.replace(f"pretrained={kind.base},peft={kind.policy}", f"pretrained={merged}")
    figures, theirs = lm_eval(tmp_path, arguments, "held_out")
    logps, blanks = ours
    assert theirs.keys() == logps.keys()
    assert len(theirs) == len(read_lines(kind.pairs))
    found, expected = (np.array([table[row] for row in sorted(logps)]) for table in (theirs, logps))
    moved = np.array([blanks[row] for row in sorted(logps)])[:, None]
    gap = abs(found - moved - expected).max()
    accuracy = likelihood_accuracy.per_prompt(expected[:, 0], expected[:, 1]).mean()
    print(f"{kind.name} {opened}: {gap:.1e} of {abs(expected).mean():.0f}, {figures['acc,none']:.4f} {accuracy:.4f}")
    assert gap <= 1e-3 * max(1.0, abs(expected).mean() / 100)
    assert (kind.name == "text") == (abs(moved).max() == 0.0), (
        "templates end in a line break, which is counted with answers"
    )
    assert figures["acc,none"] == pytest.approx(accuracy, abs=1e-12)
    assert 0.1 < accuracy < 0.9
