"""What can be evaluated: all kinds, on the same rows, with the same columns."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from eval.comparison.contestant import Contestant
from eval.comparison.preferences import summarise_preferences
from eval.comparison.record import summarise
from eval.judges import JudgeSpec
from eval.records.columns import column, needed
from eval.settings import EvalConfig
from eval.subjects import (
    Ground,
    PolicySubject,
    ResponsesSubject,
    RewardSubject,
    adapter_stage,
    evaluate_subject,
    open_subject,
    open_subjects,
)
from preflab.disk.stages import Run
from preflab.errors import UserError
from preflab.experiment.experiment import Experiment
from preflab.model.roles import Roles
from preflab.settings.training import LoraSettings
from preflab.worlds import WorldConfig

SAMPLE_COLUMNS = ["prompt", "response", "length", "ended", "log_ratio", "kl", "entropy", "gold", "proxy"]
PAIR_COLUMNS = {
    "group",
    *("row", "subset", "chosen_score", "rejected_score", "chosen_logp", "rejected_logp"),
    *("chosen_length", "rejected_length"),
}
LORA = LoraSettings(lora_rank=4, lora_alpha=8)
CONFIG = EvalConfig(eval_prompts=6, eval_pairs=10, eval_batch_size=4)


def rows(count):
    draw = np.random.default_rng(0)

    def words(n):
        return " ".join(f"word{i}" for i in draw.integers(0, 24, n))

    return [
        {"prompt": words(4), "chosen": " " + words(3), "rejected": " " + words(5), "subset": ("easy", "hard")[i % 2]}
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model_path):
    """A folder of subjects: adapters of two shapes, models of their own, responses."""
    folder = tmp_path_factory.mktemp("subjects")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(40)))
    experiment = open_experiment(folder / "pairs.jsonl", tiny_model_path, folder / "making")
    for name, rank, role in (
        ("policy", 4, "policy"),
        ("rank2", 2, "policy"),
        ("scorer", 4, "reward"),
        ("other", 2, "reward"),
    ):
        random_role(experiment, LoraSettings(lora_rank=rank, lora_alpha=8), role, folder / name)
    return folder


def open_experiment(pairs, model, run, **world):
    config = WorldConfig(model=str(model), heldout=str(pairs), max_prompt_tokens=16, max_response_tokens=8, **world)
    return Experiment(Run(run), config, LORA, run)


def random_role(experiment, lora, role, folder):
    """Save an adapter that says something."""
    roles = Roles(experiment.load_base(), lora, (role,))
    generator = torch.Generator().manual_seed(len(folder.name))
    with torch.no_grad():
        for parameter in roles.parameters_of(role):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    if role == "reward":
        roles.head(role).mean.fill_(0.3)
        roles.head(role).std.fill_(0.7)
    roles.save(role, folder)


@pytest.fixture(scope="module")
def experiment(folder, tiny_model_path):
    return open_experiment(folder / "pairs.jsonl", tiny_model_path, folder / "run")


def spec_of(opens):
    return JudgeSpec("a judge", "key", (), opens)


@pytest.fixture(scope="module")
def ground(experiment, folder):
    class CountsWord:
        def __call__(self, batch, prompts, texts):
            assert len(prompts) == len(texts) == len(batch.prompt_ids)
            return [[float(text.count("word1")) for text in row] for row in texts]

    reward = RewardSubject(str(folder / "scorer")).play(experiment)
    return Ground(experiment, CONFIG, reward=reward, judge=spec_of(lambda roles: CountsWord()))


def merged_folder(folder, experiment, name):
    """A plain model with the weights of an adapter folded in, beside its tokenizer."""
    from peft import PeftModel

    model = PeftModel.from_pretrained(experiment.load_base(), folder / name).merge_and_unload()
    model.save_pretrained(folder / f"{name}-merged")
    experiment.tokenizer.save_pretrained(folder / f"{name}-merged")
    return folder / f"{name}-merged"


def test_soft_labels_of_held_out_pairs_reach_the_figures(folder, tiny_model_path, tmp_path):
    pairs = tmp_path / "soft.jsonl"
    given = [{**row, **({"preference": 0.6 + i / 100} if i % 2 else {})} for i, row in enumerate(rows(10))]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in given))
    ground = Ground(open_experiment(pairs, tiny_model_path, tmp_path / "run"), CONFIG, generate=False)
    for subject in (RewardSubject(str(folder / "scorer")), RewardSubject(str(folder / "other"))):  # roles; a classifier
        found = subject.evaluate(ground, "scorer").preferences
        assert [row["preference"] for row in found] == [row.get("preference", 1.0) for row in given]
        margins = np.array([row["chosen_score"] - row["rejected_score"] for row in found])
        labels = np.array([row["preference"] for row in found])
        expected = np.mean(np.logaddexp(0, -margins) + (1 - labels) * margins)
        summary = summarise_preferences([found], "reward")
        assert summary["log_loss"]["mean"] == pytest.approx(expected, rel=1e-9)


def read(records, name):
    """Return a column, whichever of the two tables has it."""
    found = column([records.samples], name)
    found = column([records.preferences], name) if found is None else found
    return None if found is None else found[0]


def close(first, second, names, tolerance=1e-4):
    for name in names:
        assert np.allclose(read(first, name), read(second, name), atol=tolerance), name


SCORES = ("chosen_score", "rejected_score")
POLICY_FIGURES = (*SCORES, "chosen_logp", "rejected_logp", "log_ratio", "kl", "entropy", "gold", "proxy", "length")


# ---- the same figures by every road ------------------------------------------------------------------


def test_a_policy_gives_every_column(ground, folder):
    records = open_subject(str(folder / "policy")).evaluate(ground, "policy")
    assert [list(row) for row in records.samples] == [SAMPLE_COLUMNS] * 6
    assert [set(row) for row in records.preferences] == [PAIR_COLUMNS] * 10
    assert all((read(records, name) is not None) for name in SAMPLE_COLUMNS[2:])
    assert [row["row"] for row in records.preferences] == list(range(10))
    assert [row["subset"] for row in records.preferences] == ["easy", "hard"] * 5
    assert read(records, "kl").min() > 0
    assert read(records, "entropy").min() > 0
    assert (read(records, "chosen_logp") < 0).all()
    assert read(records, "rejected_length").tolist() == [6.0] * 10  # five words and the end
    tax = summarise(Contestant("policy", [records])).figures["demonstration_logp"]
    assert tax.mean == pytest.approx(np.mean(read(records, "chosen_logp") / 4))


def test_an_adapter_and_the_model_it_is_folded_into_are_one_policy(ground, experiment, folder):
    for name in ("policy", "rank2"):  # of the settings' shape, and of another
        adapter = open_subject(str(folder / name)).evaluate(ground, name)
        model = open_subject(str(merged_folder(folder, experiment, name))).evaluate(ground, name)
        assert [r["response"] for r in adapter.samples] == [r["response"] for r in model.samples]
        close(adapter, model, POLICY_FIGURES)


def test_a_reward_model_is_the_same_as_adapter_and_as_classifier(ground, experiment, folder):
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    adapter = open_subject(str(folder / "scorer")).evaluate(ground, "adapter")
    assert adapter.samples == []
    assert not (read(adapter, "chosen_logp") is not None)
    base = AutoModelForSequenceClassification.from_pretrained(experiment.world.model, num_labels=1)
    model = PeftModel.from_pretrained(base, folder / "scorer").merge_and_unload()
    for pad in (0, None):  # without a padding token, texts are read one by one
        model.config.pad_token_id = pad
        model.save_pretrained(folder / "classifier")
        experiment.tokenizer.save_pretrained(folder / "classifier")
        found = open_subject(str(folder / "classifier")).evaluate(ground, "classifier")
        close(found, adapter, SCORES)


def test_a_reward_adapter_of_another_shape_is_folded_into_a_classifier(ground, experiment, folder, tiny_model_path):
    found = open_subject(str(folder / "other")).evaluate(ground, "other")
    lora = LoraSettings(lora_rank=2, lora_alpha=8)
    fitting = Experiment(Run(folder / "rank2-run"), experiment.world_config, lora, folder / "rank2-run")
    close(found, RewardSubject(str(folder / "other")).evaluate(ground._replace(experiment=fitting), "other"), SCORES)


def test_any_reward_model_can_give_the_proxy_and_the_gold_reward(ground, experiment, folder):
    policy = open_subject(str(folder / "policy"))
    records = []
    for name in ("other", "scorer"):
        subject = RewardSubject(str(folder / name))
        changed = ground._replace(reward=subject.play(experiment), judge=spec_of(subject.judge(experiment, CONFIG)))
        records.append(policy.evaluate(changed, name))
    for found in records:
        close(found, found, ("proxy",))
        assert np.allclose(read(found, "gold"), read(found, "proxy"), atol=1e-4)
    assert not np.allclose(read(records[0], "proxy"), read(records[1], "proxy"), atol=0.01)


def test_best_of_n_raises_the_proxy_and_defines_no_exact_kl(ground, folder):
    one = open_subject(str(folder / "policy")).evaluate(ground, "one")
    best = open_subject(f"best-of-8:{folder / 'policy'}").evaluate(ground, "best")
    assert read(best, "proxy").mean() > read(one, "proxy").mean()
    assert not any((read(best, name) is not None) for name in ("kl", "entropy", "chosen_logp"))
    assert read(best, "log_ratio") is not None
    scorer = open_subject(str(folder / "scorer")).evaluate(ground, "scorer")
    for name in SCORES:  # the normalised reward, which the samples were chosen by
        assert np.allclose(read(best, name), (read(scorer, name) - 0.3) / 0.7, atol=1e-4)
    with pytest.raises(UserError, match="--reward-model"):
        open_subject(f"best-of-8:{folder / 'policy'}").evaluate(ground._replace(reward=None), "best")


def test_best_of_n_works_for_a_model_of_its_own(ground, experiment, folder):
    adapter = open_subject(f"best-of-4:{folder / 'policy'}").evaluate(ground, "best")
    model = open_subject(f"best-of-4:{merged_folder(folder, experiment, 'policy')}").evaluate(ground, "best")
    close(adapter, model, (*SCORES, "log_ratio", "proxy", "gold"))


# ---- other tokens ------------------------------------------------------------------------------------


def characters(path, positions=128):
    """Save a GPT-2 that reads characters."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    letters = dict.fromkeys(["</s>", "<unk>", " ", *"word0123456789"])
    tokenizer = Tokenizer(models.WordLevel({x: i for i, x in enumerate(letters)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>").save_pretrained(path)
    torch.manual_seed(0)
    sizes = {"vocab_size": 32, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": positions}
    GPT2LMHeadModel(GPT2Config(**sizes, eos_token_id=0, bos_token_id=0)).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    return characters(tmp_path_factory.mktemp("foreign"))


def test_a_model_with_another_tokenizer_has_no_kl_and_says_so_once(ground, foreign, folder, caplog):
    records = open_subject(str(foreign)).evaluate(ground, "foreign")
    assert [m for m in caplog.messages if "tokens" in m and "foreign" in m] == [
        "foreign writes other tokens than the reference: no log-ratio, KL or implicit reward for it"
    ]
    undefined = ("log_ratio", "kl", "chosen_score", "rejected_score")
    assert not any((read(records, name) is not None) for name in undefined)
    assert all(
        (read(records, name) is not None)
        for name in ("entropy", "gold", "proxy", "chosen_logp", "rejected_logp", "ended")
    )
    ours = open_subject(str(folder / "policy")).evaluate(ground, "policy")
    assert records.fingerprint == ours.fingerprint, "the same rows"
    assert (read(records, "chosen_length") > read(ours, "chosen_length")).all()
    best = open_subject(f"best-of-4:{foreign}").evaluate(ground, "best")
    assert read(best, "proxy").mean() > read(records, "proxy").mean()
    assert read(best, "log_ratio") is None


def test_a_model_that_cannot_hold_the_rows_is_refused(ground, tmp_path):
    with pytest.raises(UserError, match=r"reads 20 tokens, .* takes \d+ in its tokenizer"):
        open_subject(str(characters(tmp_path, positions=20))).evaluate(ground, "short")


def test_a_model_whose_weights_are_of_other_shapes_is_refused(ground, tmp_path):
    characters(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "n_positions": 20}))
    with pytest.raises(UserError, match="cannot be loaded"):
        open_subject(str(tmp_path)).evaluate(ground, "torn")


# ---- files of responses ------------------------------------------------------------------------------


def test_responses_are_judged_like_samples(ground, folder, tmp_path):
    policy = open_subject(str(folder / "policy")).evaluate(ground, "policy")
    policy.write(tmp_path)
    found = open_subject(str(tmp_path)).evaluate(ground, "again")  # an evaluation's own folder
    assert found.preferences == []
    assert [row["response"] for row in found.samples] == [row["response"] for row in policy.samples]
    assert np.array_equal(read(found, "gold"), read(policy, "gold"))
    assert not any((read(found, name) is not None) for name in ("ended", "log_ratio", "kl", "entropy"))
    outputs = [{"instruction": r["prompt"], "output": r["response"], "generator": "x"} for r in policy.samples[::-1]]
    (tmp_path / "outputs.json").write_text(json.dumps(outputs))
    again = open_subject(str(tmp_path / "outputs.json")).evaluate(ground, "outputs")
    assert again.samples == found.samples


def test_responses_must_answer_every_prompt(ground, tmp_path):
    (tmp_path / "few.jsonl").write_text('{"prompt": "word1", "response": "word2"}\n')
    with pytest.raises(UserError, match="0 of 6 evaluation prompts"):
        open_subject(str(tmp_path / "few.jsonl")).evaluate(ground, "few")
    (tmp_path / "bad.jsonl").write_text('{"prompt": "word1"}\n')
    with pytest.raises(UserError, match=r"bad.jsonl, row 1"):
        open_subject(str(tmp_path / "bad.jsonl")).evaluate(ground, "bad")


# ---- what a person may name --------------------------------------------------------------------------


def test_specs_are_told_apart(folder, foreign, tmp_path):
    assert open_subject(str(folder / "policy")) == PolicySubject(str(folder / "policy"))
    assert open_subject(str(folder / "scorer")) == RewardSubject(str(folder / "scorer"))
    assert open_subject(str(foreign)) == PolicySubject(str(foreign), "causal language model", adapter=False)
    best = open_subject(f"best-of-16:{foreign}")
    assert (best.best_of, best.kind, best.role) == (16, "best of 16", "policy")
    assert isinstance(open_subject(str(folder / "pairs.jsonl")), ResponsesSubject)


@pytest.mark.parametrize(
    ("make", "spec", "part"),
    [
        (None, "nowhere", "adapter_config.json"),
        ("", "empty", "nothing that can be evaluated"),
        ("notes.txt", "empty/notes.txt", "no known kind"),
        ("config.json", "best-of-1:empty", "takes 2 to"),
        ("config.json", "best-of-4:best-of-4:empty", "policy"),
        (None, "best-of-4:nowhere", "nowhere"),
    ],
)
def test_what_names_nothing_is_refused_with_what_was_looked_for(tmp_path, monkeypatch, make, spec, part):
    monkeypatch.chdir(tmp_path)
    if make is not None:
        (tmp_path / "empty").mkdir()
    if make:
        (tmp_path / "empty" / make).write_text("{}")
    with pytest.raises(UserError, match=part):
        open_subject(spec)


def test_a_classifier_with_more_labels_is_no_reward_model(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForSequenceClassification"]}')
    with pytest.raises(UserError, match="2 labels"):
        open_subject(str(tmp_path))


def test_pickled_weights_are_not_read(ground, folder, tmp_path):
    import shutil

    shutil.copytree(folder / "rank2", tmp_path / "pickled")
    (tmp_path / "pickled" / "adapter_model.safetensors").rename(tmp_path / "pickled" / "adapter_model.bin")
    with pytest.raises(UserError, match="only safetensors"):
        open_subject(str(tmp_path / "pickled")).evaluate(ground, "pickled")


def test_an_adapter_of_which_a_part_finds_no_place_is_refused(ground, folder, tmp_path):
    """The library would load the rest, and say nothing."""
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(folder / "rank2", tmp_path / "deeper")
    path = tmp_path / "deeper" / "adapter_model.safetensors"
    weights = load_file(path)
    name = next(iter(weights))
    save_file({**weights, name.replace("layers.0", "layers.7"): weights[name].clone()}, path)
    with pytest.raises(UserError, match=r"weights for .*layers\.7.*, which it does not name"):
        open_subject(str(tmp_path / "deeper")).evaluate(ground, "deeper")


def write_stage(run, name, key, role, adapter, **inputs):
    folder = run / "stages" / f"{name}-{key}"
    folder.mkdir(parents=True)
    (folder / "stage.json").write_text(json.dumps({"inputs": {"sft": None, **inputs}, "record": {}}))
    (folder / role).symlink_to(adapter, target_is_directory=True)


def test_a_run_gives_each_of_its_models(ground, folder, tmp_path):
    write_stage(tmp_path, "sft", "aa", "policy", folder / "policy", method="sft", config={})
    write_stage(tmp_path, "reward", "bb", "reward", folder / "scorer", method="reward", config={})
    write_stage(tmp_path, "judge", "cc", "reward", folder / "scorer", method="reward", config={})
    write_stage(
        tmp_path, "best-of-n-seed0", "dd", "policy", folder / "policy", method="best-of-n", config={"n": 4}, sft="aa"
    )
    found = open_subjects("mine", str(tmp_path))
    assert list(found) == ["mine.best-of-n-seed0", "mine.reward", "mine.sft"]
    best = found["mine.best-of-n-seed0"]
    assert best.start == str(tmp_path / "stages" / "sft-aa" / "policy")
    # Its method decodes in a way of its own.
    close(
        best.evaluate(ground, "best"), open_subject(f"best-of-4:{folder / 'policy'}").evaluate(ground, "b"), ("proxy",)
    )


# ---- killed half-way ---------------------------------------------------------------------------------


def test_a_killed_evaluation_goes_on_and_ends_alike(ground, folder, tmp_path, monkeypatch):
    from eval.harness import evaluate as harness

    monkeypatch.setattr(harness, "SAMPLED_AT_ONCE", 2)
    subject = open_subject(str(folder / "policy"))
    whole = subject.evaluate(ground, "whole", None)
    asked = []

    def breaking(sampler, calls):
        def sample(*args, **kwargs):
            if len(asked) == calls:
                raise KeyboardInterrupt
            asked.append(kwargs["seed"])
            return sampler(*args, **kwargs)

        return sample

    plain = Experiment.sampler
    monkeypatch.setattr(Experiment, "sampler", lambda self, **options: breaking(plain(self, **options), 2))
    with pytest.raises(KeyboardInterrupt):
        subject.evaluate(ground, "killed", tmp_path)
    assert (tmp_path / "preferences.jsonl").is_file()
    monkeypatch.setattr(Experiment, "sampler", lambda self, **options: breaking(plain(self, **options), 3))
    monkeypatch.setattr(harness, "score_preferences", None)  # done already
    again = subject.evaluate(ground, "killed", tmp_path)
    assert len(asked) == len(set(asked)) == 3, "no part was sampled twice"
    assert (again.samples, again.preferences) == (whole.samples, whole.preferences)


def test_a_finished_evaluation_is_reused_unless_anything_in_it_changes(ground, folder):
    subject = open_subject(str(folder / "policy"))
    first = evaluate_subject("policy", subject, ground)

    def count():
        return len(list((folder / "run" / "stages").glob("eval-policy-*")))

    assert evaluate_subject("policy", subject, ground).samples == first.samples
    assert count() == 1
    changes = [
        (subject, ground._replace(generate=False)),
        (subject, ground._replace(seed=1)),
        (subject, ground._replace(reward=None)),
        (subject, ground._replace(sft=adapter_stage(folder / "policy", "policy"))),
        (subject, ground._replace(judge=ground.judge._replace(key="another"))),
        (open_subject(f"best-of-2:{folder / 'policy'}"), ground),
    ]
    for changed in changes:
        evaluate_subject("policy", *changed)
    assert count() == 1 + len(changes)


def test_without_generating_only_pairs_are_scored(ground, folder):
    full = open_subject(str(folder / "policy")).evaluate(ground, "policy")
    pairs = open_subject(str(folder / "policy")).evaluate(ground._replace(generate=False), "policy")
    assert pairs.samples == []
    assert pairs.preferences == full.preferences


def test_the_reference_is_the_starting_adapter(ground, folder):
    sft = adapter_stage(folder / "policy", "policy")
    same = PolicySubject(None).evaluate(ground._replace(sft=sft), "reference")
    assert np.abs(read(same, "kl")).max() == 0
    assert np.abs(read(same, "chosen_score")).max() == 0
    adapter = open_subject(str(folder / "policy")).evaluate(ground, "policy")
    close(same, adapter, ("chosen_logp", "rejected_logp"))


def test_one_rule_for_missing_values():
    seeds = [[{"kl": None, "gold": 1}, {"kl": 2.0, "gold": 0.5}], [{"gold": True}, {"gold": 3.0, "row": 7}]]
    assert column(seeds, "absent") is None
    assert column(seeds, "gold").tolist() == [[1.0, 0.5], [1.0, 3.0]]
    with pytest.raises(UserError, match=r"^kl of row 0 \(training seed 0\) is missing"):
        column(seeds, "kl")
    for value in (float("nan"), float("-inf"), "3", None):
        seeds[1][1]["gold"] = value
        said = "missing" if value is None else re.escape(repr(value))
        with pytest.raises(UserError, match=rf"^gold of row 7 \(training seed 1\) is {said}"):
            column(seeds, "gold")
    with pytest.raises(UserError, match="no row has 'absent'"):
        needed(seeds, "absent")


def test_the_library_needs_no_method_and_no_trainer_of_another():
    """Evaluating is possible without training anything."""
    code = """
import sys
import eval.harness.evaluate, eval.subjects, eval.subjects.models, eval.judges, eval.metrics, eval.statistics
bad = sorted(m for m in sys.modules if m.split('.')[0] in ('algorithms', 'recipes', 'trl'))
sys.exit(f'imported {bad}' if bad else 0)
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr


def test_naming_subjects_needs_no_torch(folder):
    code = f"""
import sys
from eval.subjects import open_subject
open_subject({str(folder / "policy")!r})
sys.exit('torch' in sys.modules)
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
