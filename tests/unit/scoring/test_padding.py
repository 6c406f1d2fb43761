"""A saved reward model says the same to whoever opens it: for every padding, on every side, in every kind of model."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    LlamaConfig,
    Qwen2Config,
)

from preflab.data.batches import collate
from preflab.data.encoding import EncodedGroup
from preflab.model.classifiers import classifier_logits
from preflab.model.roles import Roles
from preflab.scoring.padding import as_classifiers_read, classifier_tokenizer
from preflab.settings.training import LoraSettings, TrainConfig
from preflab.training.task import Task

END, WORDS = 2, 28
SIZES = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
FAMILIES = {
    "llama": lambda **k: LlamaConfig(hidden_size=32, max_position_embeddings=64, **SIZES, **k),
    "qwen2": lambda **k: Qwen2Config(hidden_size=32, max_position_embeddings=64, **SIZES, **k),
    "gpt2": lambda **k: GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **k),
}
PADS = {"end": END, "absent": None, "distinct": 0}
LORA = LoraSettings(lora_rank=4, lora_alpha=8)
# Ragged; one answer was cut at a length limit, one says nothing.
GROUPS = [
    EncodedGroup([1, 5, 6, 7], [[8, 9, 10, END], [11, END]], 0),
    EncodedGroup([1, 12], [[13, 14, 15, 16, 17, 18], [END]], 1),
    EncodedGroup([1, 19, END, 20], [[4, 5, 6, END], [7, 8, END]], 2),
]
TEXTS = [[*group.prompt_ids, *response] for group in GROUPS for response in group.response_ids]


@pytest.fixture(scope="module", params=[(family, pad) for family in FAMILIES for pad in PADS], ids="-".join)
def saved(request, tmp_path_factory, tiny_tokenizer):
    """A reward model, its folders, and what preflab says of the texts."""
    family, pad = request.param
    base, folder = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("reward")
    torch.manual_seed(0)
    config = FAMILIES[family](vocab_size=WORDS, pad_token_id=PADS[pad], bos_token_id=1, eos_token_id=END)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
    model.save_pretrained(base)
    roles = Roles(model.requires_grad_(False), LORA, ("reward",))
    with torch.no_grad():
        for parameter in roles.parameters_of("reward"):
            parameter.add_(0.2 * torch.randn(parameter.shape))
        roles.head("reward").mean.fill_(0.3)
        roles.head("reward").std.fill_(2.0)
        scores = roles.raw_rewards(collate(GROUPS, 0)).flatten()
        assert scores.std() > 0.1
    roles.save("reward", folder)
    tiny_tokenizer.pad_token = {"end": "</s>", "absent": None, "distinct": "<pad>"}[pad]
    classifier_tokenizer(tiny_tokenizer, PADS[pad], (END,)).save_pretrained(folder)
    tiny_tokenizer.pad_token = "<pad>"
    return family, pad, base, folder, scores, roles


def documented(base, folder):
    """The snippet of the README."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, pad_token_id=tokenizer.pad_token_id)
    return PeftModel.from_pretrained(model, folder).eval(), tokenizer


@torch.no_grad()
def outside(model, tokenizer, side, family):
    """What an outsider reads off the model, all texts in one batch or each alone."""
    if side == "single":
        return torch.cat([model(input_ids=torch.tensor([text])).logits[:, 0] for text in TEXTS])
    tokenizer.padding_side = side
    batch = tokenizer.pad({"input_ids": TEXTS}, return_tensors="pt")
    batch["attention_mask"] = torch.tensor(
        [[0] * (len(row) - len(t)) + [1] * len(t) if side == "left" else [1] * len(t) + [0] * (len(row) - len(t))
         for row, t in zip(batch["input_ids"], TEXTS, strict=True)]
    )  # fmt: skip
    if family == "gpt2" and side == "left":  # it counts places from the first column on, padding or not
        batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    return model(**batch).logits[:, 0]


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("side", ["left", "right", "single"])
def test_by_the_documented_snippet_saved_and_merged(saved, side, tmp_path):
    family, _, base, folder, scores, _ = saved
    model, tokenizer = documented(base, folder)
    close(outside(model, tokenizer, side, family), scores)
    model.merge_and_unload().save_pretrained(tmp_path)
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    close(outside(merged, tokenizer, side, family), scores)


def test_opened_plainly(saved, tiny_tokenizer):
    """Whoever knows nothing of us: by the base's own padding, or one text at a time where it has none."""
    family, pad, base, folder, scores, _ = saved
    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    model = PeftModel.from_pretrained(plain, folder).eval()
    for side in ["single"] if pad == "absent" else ["left", "right", "single"]:
        close(outside(model, classifier_tokenizer(tiny_tokenizer, PADS[pad], (END,)), side, family), scores)


def test_by_our_own_reader_of_classifiers(saved):
    _, _, base, folder, scores, _ = saved
    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    model = PeftModel.from_pretrained(plain, folder).eval()
    close(classifier_logits(model.merge_and_unload(), collate(GROUPS, 0)).flatten(), scores)


def test_by_trl(saved, tiny_tokenizer, tmp_path):
    """The trainer's own collator and model: given the saved folder, and as `trl-reward` makes them."""
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    from preflab.algorithms.trl_backed import TRLReward

    _, _, base, folder, scores, roles = saved
    model, tokenizer = documented(base, folder)
    rows = [{"chosen_ids": TEXTS[i], "rejected_ids": TEXTS[i + 1]} for i in range(0, len(TEXTS), 2)]
    options = RewardConfig(output_dir=str(tmp_path), report_to=[], bf16=False, use_cpu=True)

    class Given(RewardTrainer):
        def _prepare_dataset(self, dataset, *args, **kwargs):
            return dataset

    opened = Given(model=model, args=options, processing_class=tokenizer, train_dataset=Dataset.from_list(rows))
    task = Task(
        roles, GROUPS, TrainConfig(per_device_train_batch_size=3, max_steps=1), tiny_tokenizer, tmp_path, 0, "t"
    )
    backed, groups = TRLReward(TRLReward.Config()).build(task)
    order = [2 * group.row + i for i in (0, 1) for group in groups]
    for trainer, expected in ((opened, scores[[0, 2, 4, 1, 3, 5]]), (backed, scores[order])):
        trainer.model.eval()
        with torch.no_grad():
            batch = next(iter(trainer.get_train_dataloader())) if trainer is backed else trainer.data_collator(rows)
            found = trainer.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]
        close(found, expected)


def test_only_padding_at_the_end_is_left_out():
    batch = collate([EncodedGroup([1, END], [[END, 5, END, END], [END], [7]], 0)], 0)
    assert as_classifiers_read(batch, None) is batch
    assert as_classifiers_read(batch, 0).response_mask.equal(batch.response_mask)
    assert as_classifiers_read(batch, END).response_mask.sum(-1).tolist() == [[2, 0, 1]]


@pytest.mark.parametrize(
    ("own", "pad_id", "ends", "expected"),
    [
        ("</s>", END, (END,), "</s>"),  # what the base says, whatever the tokenizer has
        ("<pad>", END, (END,), "</s>"),
        ("<pad>", None, (END,), "<pad>"),
        ("</s>", None, (END,), "<unk>"),
        ("</s>", None, (0, 1, 2, 3), "word23"),
        ("</s>", 99, (END,), "<unk>"),  # no token
        ("</s>", None, tuple(range(28)), None),
    ],
)
def test_the_tokenizer_pads_with_what_ends_no_text(tiny_tokenizer, own, pad_id, ends, expected):
    tiny_tokenizer.pad_token = own
    found = classifier_tokenizer(tiny_tokenizer, pad_id, ends)
    assert (found and found.pad_token) == expected
    assert tiny_tokenizer.pad_token == own
    tiny_tokenizer.pad_token = "<pad>"


@pytest.mark.parametrize("pad", [None, "word"])
def test_padding_is_no_word_of_a_text(pad, tmp_path):
    """Saved as padding, a word is looked for as a whole string: ``sugar`` would be cut out of ``sugary``."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["</s>", *"▁sugary", "sugar", "ry", "▁s", "▁sugar", "sug", "ar", "sugar!"]
    merges = [("▁", "s"), ("s", "u"), ("su", "g"), ("r", "y"), ("a", "ry"), ("sug", "ary")]
    vocabulary = {name: i for i, name in enumerate(dict.fromkeys([*names, "su", "ary", "sugary", "ug"]))}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    plain = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")
    padded = classifier_tokenizer(plain, None if pad is None else vocabulary["sugar"], (vocabulary["</s>"],))
    padded.save_pretrained(tmp_path)
    opened = AutoTokenizer.from_pretrained(tmp_path)
    assert opened.pad_token_id not in (None, vocabulary["</s>"])
    assert opened("sugary")["input_ids"] == plain("sugary")["input_ids"]
