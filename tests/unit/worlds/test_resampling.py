"""Preferences drawn again by their groups, or fewer of them: whole groups, and nothing that is evaluated on."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from preflab.data.encoding import EncodedGroup
from preflab.disk.stages import Run, content_hash
from preflab.errors import UserError
from preflab.experiment.experiment import Experiment
from preflab.settings.training import LoraSettings
from preflab.worlds.resampling import bootstrapped, fewer, rows_of_groups, with_rows

EVALUATED_ON = ("heldout", "eval_prompts", "gold_pairs")


@pytest.fixture(scope="module")
def config(grouped):
    """160 prompts in 40 groups of unequal size."""
    return grouped(lambda n, draw: int(40 * draw.random() ** 2))


@pytest.fixture
def experiment(config, tmp_path):
    return Experiment(Run(tmp_path / "run"), config, LoraSettings(), tmp_path / "cache")


def how_often(split):
    return Counter(split["group"])


def test_a_group_is_drawn_whole_and_as_often_in_every_split(whole):
    drawn, sizes = bootstrapped(whole, 3), how_often(whole.pairs)
    times = {group: count / sizes[group] for group, count in how_often(drawn.pairs).items()}
    assert all(count == int(count) for count in times.values())
    assert sum(times.values()) == len(sizes), "as many groups as there are"
    assert 0.4 < len(times) / len(sizes) < 0.85, "63 % of them are expected"
    of_demonstrations, own = how_often(drawn.demonstrations), how_often(whole.demonstrations)
    assert of_demonstrations == {group: int(times[group]) * own[group] for group in times}


def test_another_seed_draws_others_and_the_same_one_the_same(whole):
    one, same, other = (bootstrapped(whole, seed).pairs["prompt"] for seed in (0, 0, 1))
    assert one == same != other


@pytest.mark.parametrize("draw", [lambda world: bootstrapped(world, 0), lambda world: fewer(world, 0.3, 0)])
def test_what_is_evaluated_on_stays(whole, draw):
    drawn = draw(whole)
    for name in EVALUATED_ON:
        assert getattr(drawn, name) is getattr(whole, name)
        assert drawn.fingerprints[name] == whole.fingerprints[name]
    assert drawn.fingerprints["pairs"] != whole.fingerprints["pairs"]


def test_a_small_part_lies_inside_a_larger_one_and_prompts_stay(whole):
    parts = [how_often(fewer(whole, fraction, 5).pairs) for fraction in (0.1, 0.3, 1.0)]
    assert parts[0].items() < parts[1].items() < parts[2].items()
    assert parts[2] == how_often(whole.pairs)
    assert [len(part) for part in parts[:2]] == [round(f * len(parts[2])) for f in (0.1, 0.3)]
    assert set(parts[1]) != set(how_often(fewer(whole, 0.3, 6).pairs))
    less = fewer(whole, 0.1, 5)
    assert less.prompts is whole.prompts
    assert how_often(less.demonstrations) == parts[0], "they are the chosen responses of these groups"


def test_demonstrations_of_other_groups_stay(whole):
    others = whole.demonstrations.map(lambda row: {"group": f"other {row['group']}"})
    assert len(fewer(replace(whole, demonstrations=others), 0.1, 5).demonstrations) == len(others)


def test_the_least_part_is_one_group(whole):
    assert len(how_often(fewer(whole, 1e-4, 0).pairs)) == 1


def test_what_was_encoded_follows_its_rows_and_rows_over_a_limit_stay_away(whole):
    encoded = [EncodedGroup([row], [[row]], row) for row in range(len(whole.pairs)) if row != 2]
    drawn = with_rows(replace(whole, encoded={"pairs": encoded}), {"pairs": [5, 2, 5, 0]})
    assert [(group.prompt_ids, group.row) for group in drawn.encoded["pairs"]] == [([5], 0), ([5], 2), ([0], 3)]
    assert drawn.pairs["prompt"] == [whole.pairs["prompt"][row] for row in (5, 2, 5, 0)]


def test_rows_without_a_group_are_told_by_their_prompt(whole):
    bare = whole.pairs.remove_columns("group")
    found = rows_of_groups(bare)
    assert sum(map(len, found.values())) == len(bare)
    assert set(found) == {" ".join(prompt.casefold().split()) for prompt in bare["prompt"]}


def test_the_world_whose_splits_share_prompts_is_refused(whole):
    for draw in (lambda world: bootstrapped(world, 0), lambda world: fewer(world, 0.5, 0)):
        with pytest.raises(UserError, match="not drawn again"):
            draw(replace(whole, cut=True))


def test_an_experiment_on_another_sample_encodes_nothing_again_and_keys_its_stages_apart(experiment, monkeypatch):
    own = experiment.pairs
    monkeypatch.setattr(experiment.encoder, "encode_pairs", lambda *_: pytest.fail("encoded again"))
    drawn = experiment.drawn_again(0)
    assert {str(group.prompt_ids) for group in drawn.pairs} < {str(group.prompt_ids) for group in own}
    keys = [content_hash(one.identity()) for one in (experiment, drawn, experiment.drawn_again(1))]
    assert len(set(keys)) == 3
    assert experiment.drawn_again(0) is drawn, "drawn once"
    assert experiment.pairs is own


def test_a_part_of_a_sample_is_of_that_sample(experiment):
    parts = [experiment.drawn_again(seed).with_fewer(0.5, 0) for seed in (0, 1)]
    assert parts[0].identity() != parts[1].identity()
    for seed, part in enumerate(parts):
        assert set(part.world.pairs["group"]) < set(experiment.drawn_again(seed).world.pairs["group"])
