"""The records of the contract: what was not asked for is refused by name, and defaults are nobody's to change."""

from __future__ import annotations

import copy
from dataclasses import FrozenInstanceError, dataclass
from operator import attrgetter

import pytest
import torch
from tiny import train

from preflab import Batch, Feedback, Labels, Loss, Pairwise, Scores, UserError
from preflab.data.batches import collate
from preflab.data.encoding import EncodedGroup
from preflab.method import registry
from preflab.method.configured import make_method
from preflab.method.records import FIELDS


@pytest.mark.parametrize("role", FIELDS)
def test_scores_that_nobody_asked_for_name_the_role(role):
    others = {field: torch.zeros(1) for field in FIELDS.values() if field != FIELDS[role]}
    scores = Scores(**others)
    with pytest.raises(LookupError, match=rf"no {FIELDS[role]}: Needs\.scores .*Needs\.rollout\) names no '{role}'"):
        attrgetter(FIELDS[role])(scores)
    assert scores.of(role) is None
    assert [scores.of(other) is not None for other in FIELDS if other != role] == [True] * 3


def test_scores_are_a_tuple_still():
    logps, rewards = torch.zeros(2, 1, 3), torch.ones(2, 1)
    scores = Scores(logps, rewards=rewards)
    assert scores == (logps, None, None, rewards)
    assert scores._replace(values=logps).values is logps
    assert scores._asdict() == {"logps": logps, "reference_logps": None, "values": None, "rewards": rewards}
    assert copy.copy(scores).rewards is rewards


OWN = """
from dataclasses import dataclass, field
from preflab import Loss, LossMethod, Needs

@dataclass(frozen=True)
class Settings:
    pass

class Mine(LossMethod):
    Config = Settings
    needs = Needs("pair", ("policy",))

    def __init__(self, config):
        self.config = config

    def loss(self, batch, scores):
        return Loss((scores.logps - scores.reference_logps).sum((1, 2)))
"""


def test_a_loss_of_ones_own_that_reads_more_is_answered_by_file_and_line(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(OWN, encoding="utf-8")
    wanted = (
        r"Mine\.loss raised LookupError: there are no reference_logps: .*names no 'reference' \(.*mine\.py, line 17\)"
    )
    with pytest.raises(UserError, match=wanted):
        train(make_method(f"{path}:Mine").fresh(), tmp_path / "run", max_steps=1)


@pytest.mark.parametrize("name", sorted(registry.registered()))
def test_pairwise_losses_read_the_reference_if_they_ask_for_it(name):
    algorithm = make_method(name).algorithm
    if isinstance(algorithm, Pairwise) and "reference" in algorithm.needs.scores:
        with pytest.raises(LookupError, match="'reference'"):
            algorithm.loss(pair_batch(), Scores(torch.zeros(1, 2, 1)))


def pair_batch():
    one = torch.ones(1, 2, 1, dtype=torch.long)
    return Batch(one[:, 0], one[:, 0].bool(), one, one.bool())


def test_metrics_of_a_loss_are_its_own():
    with pytest.raises(TypeError):
        Loss(torch.zeros(1)).metrics["mine"] = None


@dataclass(frozen=True, eq=False)
class Mine(Feedback):
    """Feedback of each shape that there is."""

    of_prompts: torch.Tensor
    of_tokens: torch.Tensor
    of_others: torch.Tensor
    missing: torch.Tensor | None = None


def mine():
    """Two prompts of 2 and 3 tokens, with responses of 1 and 4 tokens at most; every number says where it stands."""
    prompts, lengths = torch.tensor([2, 3]), torch.tensor([[1, 0], [4, 2]])
    prompt_mask = torch.arange(5) >= 5 - prompts[:, None]
    mask = torch.arange(6) < lengths[..., None]
    ids = torch.arange(24).reshape(2, 2, 6)
    feedback = Mine(torch.tensor([7.0, 8.0]), ids + 0.5, torch.arange(24.0).reshape(2, 2, 1, 6))
    return Batch(torch.arange(10).reshape(2, 5), prompt_mask, ids, mask, feedback, ids + 0.25)


def test_feedback_is_cut_and_trimmed_with_its_rows():
    part = mine().rows(slice(1, 2))
    assert part.prompt_ids.tolist() == [[7, 8, 9]]
    assert part.response_ids.shape == (1, 2, 4)
    assert isinstance(part.feedback, Mine)
    assert part.feedback.of_prompts.tolist() == [8.0]
    assert torch.equal(part.feedback.of_tokens, part.response_ids + 0.5)
    assert torch.equal(part.reference_logps, part.response_ids + 0.25)
    assert part.feedback.of_others.shape == (1, 2, 1, 6), "no three axes are none to trim"
    assert part.feedback.missing is None


def test_feedback_with_slots_is_cut_too():
    @dataclass(frozen=True, slots=True)
    class Slots(Feedback):
        mine: torch.Tensor

    batch = mine().replace(feedback=Slots(torch.tensor([1.0, 2.0])))
    assert batch.rows(slice(1, 2)).feedback.mine.tolist() == [2.0]


def test_feedback_moves_with_its_batch():
    moved = mine().to("meta")
    tensors = [*moved.tokens, moved.reference_logps, *(x for x in vars(moved.feedback).values() if x is not None)]
    assert {x.device.type for x in tensors} == {"meta"}


def test_what_is_selected_or_emptied():
    batch = mine()
    chosen = batch.select(torch.tensor([[1], [0]]))
    assert chosen.response_ids[:, 0, 0].tolist() == [6, 12]
    assert (type(chosen.feedback), chosen.reference_logps) == (Labels, None)
    emptied = batch.emptied()
    assert not emptied.response_mask.any()
    assert emptied.feedback is batch.feedback
    assert batch.response_mask.any()


def test_nobody_changes_what_others_are_given():
    one, other = pair_batch(), pair_batch()
    for record, field in ((one, "feedback"), (one.feedback, "preference")):
        with pytest.raises(FrozenInstanceError):
            setattr(record, field, None)
    assert one.feedback is other.feedback, "there is nothing in it to share"


def test_a_misspelt_label_is_found_where_batches_are_made():
    with pytest.raises(TypeError, match="prefrence"):
        collate([EncodedGroup([1], [[2], [3]], 0, {"prefrence": 1.0})], 0)


PREPARES = """
    needs = Needs("pair", ("policy",), rollout=("policy",))

    def prepare(self, rollout):
        return rollout.batch.replace(feedback={})
"""


FEEDBACK = """
@dataclass(frozen=True)
class Own(Feedback):
    mine: object

@dataclass(frozen=True, slots=True)
class Slots(Feedback):
    mine: object

@dataclass(frozen=True)
class Late(Own):
    late: object = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "late", self.mine)

class Bare(Feedback):
    def __init__(self, mine):
        self.mine = mine
"""


@pytest.mark.parametrize(
    ("feedback", "message"),
    [
        ("{'kl': rollout.batch.response_mask}", "feedback that is .*must be a dataclass on preflab.Feedback"),
        ("Own(rollout.scores.logps.sum())", "feedback whose mine is no tensor with a first axis of 32 prompts"),
        ("Own(1.0)", "feedback whose mine is no tensor"),
        (
            "Own(rollout.batch.response_mask.new_zeros(32, 2, 99))",
            r"feedback whose mine is \(32, 2, 99\); three axes are those of",
        ),
        ("Slots(rollout.scores.logps.sum())", "feedback whose mine is no tensor with a first axis of 32 prompts"),
        ("Bare(rollout.batch.prompt_ids)", "feedback whose mine is no field that Bare is made with"),
        ("Late(rollout.batch.prompt_ids)", "feedback whose late is no field that Late is made with"),
    ],
)
def test_feedback_that_cannot_be_cut_is_answered_by_file_and_line(tmp_path, feedback, message):
    own = OWN.replace("import Loss,", "import Feedback, Loss,") + PREPARES.replace(
        "feedback={}", f"feedback={feedback}"
    )
    path = tmp_path / "mine.py"
    path.write_text(own + FEEDBACK, encoding="utf-8")
    with pytest.raises(UserError, match=rf"Mine\.prepare returned {message}.*mine\.py, line \d+"):
        train(make_method(f"{path}:Mine").fresh(), tmp_path / "run", max_steps=1)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ("rollout.batch.rows(slice(0, 3))", "3 prompts of 32, on which the number of steps rests; mask out"),
        ("rollout.batch.replace(response_mask=rollout.batch.response_mask * 1)", r"a response_mask of torch\.int64"),
    ],
)
def test_a_prepared_batch_is_as_long_as_its_rollout_and_masked_by_truth_values(tmp_path, batch, message):
    path = tmp_path / "mine.py"
    prepares = PREPARES.replace("rollout.batch.replace(feedback={})", batch)
    path.write_text(OWN + prepares, encoding="utf-8")
    with pytest.raises(UserError, match=rf"Mine\.prepare returned {message}.*mine\.py, line \d+"):
        train(make_method(f"{path}:Mine").fresh(), tmp_path / "run", max_steps=1)
