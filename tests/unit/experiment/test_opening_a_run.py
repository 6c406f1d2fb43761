"""What a run could not finish with is refused before the libraries are loaded."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from preflab import UserError
from preflab.data.formats import check_usable
from preflab.experiment.opening import check_data, check_engine, check_reward, nothing_left
from preflab.method.configured import make_method
from preflab.settings.training import LoraSettings, RolloutConfig
from preflab.worlds import WorldConfig


def test_an_engine_that_would_sample_another_base_is_refused():
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (pip install preflab[quantised])")
    ours = make_method("ppo")
    vllm = SimpleNamespace(name="ppo", config=RolloutConfig(sampler="vllm"))
    check_engine(LoraSettings(load_in="4bit"), [make_method("dpo"), ours])
    check_engine(LoraSettings(), [vllm])
    with pytest.raises(UserError, match="vLLM would sample the base as it lies there"):
        check_engine(LoraSettings(load_in="4bit"), [vllm])


def test_a_reward_that_is_not_there_is_refused(tmp_path):
    (tmp_path / "mine.py").write_text("def right(response):\n    return 1.0\n")
    world = {"model": "m", "dataset": "owner/name"}
    check_reward(WorldConfig(**world))
    check_reward(WorldConfig(**world, reward=f"{tmp_path / 'mine.py'}:right,model"))
    for reward, message in (
        (f"{tmp_path / 'other.py'}:right", "does not exist"),
        (f"{tmp_path / 'mine.py'}:rihgt", "has no 'rihgt'"),
        ("endpoint", "needs --reward-endpoint-url and --reward-endpoint-model"),
    ):
        with pytest.raises(UserError, match=message):
            check_reward(WorldConfig(**world, reward=reward))


def fails(folder, error, *made):
    """Make files under a run folder, then fail."""
    with nothing_left(folder):
        for path in made:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        raise error


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("begun", [False, True])
def test_a_mistake_leaves_no_folder_that_was_not_there(there, begun, tmp_path):
    folder = tmp_path / "runs" / "mine"
    if there:
        folder.mkdir(parents=True)
    made = [folder / "manifest.json", *([folder / "stages" / ".sft-0.partial"] if begun else [])]
    with pytest.raises(UserError, match="no"):
        fails(folder, UserError("no"), *made)
    assert folder.exists() == (there or begun)
    assert (tmp_path / "runs").exists() == (there or begun)


def test_what_others_have_put_beside_it_stays_and_so_does_the_log_of_a_bug(tmp_path):
    folder = tmp_path / "runs" / "mine"
    with pytest.raises(UserError):
        fails(folder, UserError("no"), folder / ".lock", tmp_path / "runs" / "theirs")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["theirs"]
    with pytest.raises(KeyError):
        fails(folder, KeyError("bug"), folder / "crash.log")
    assert (folder / "crash.log").exists()


GOOD = '{"prompt": "a", "chosen": "b", "rejected": "c"}\n'
FILES = {
    "empty.jsonl": ("", "has no usable row: it is empty"),
    "broken.jsonl": ("{x\n{y\n", r"has no usable row: not JSON: 2 \(rows 1, 2\)"),
    "broken.json": ("[1, 2", "is not valid JSON"),
    "other.csv": ("question,good\na,b\n", "it has question, good"),
    "semicolons.csv": ("prompt;chosen;rejected\na;b;c\n", "separate columns by commas"),
    "latin.csv": (b"prompt,chosen,rejected\n\xff,b,c\n", "save it as UTF-8"),
    "named.txt": ("a b c", "unknown suffix"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("role", ["dataset", "heldout"])
def test_data_of_which_no_row_can_be_used_are_refused(name, role, tmp_path):
    content, message = FILES[name]
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    (tmp_path / "good.jsonl").write_text(GOOD)
    world = WorldConfig(**{"model": "m", "dataset": str(tmp_path / "good.jsonl"), role: str(tmp_path / name)})
    with pytest.raises(UserError, match=message):
        check_data(world)


def test_data_are_read_no_further_than_it_takes(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("not json\n" + GOOD + '{"prompt": "a", "chosen": "b", "rejected": "c", "thread": 1}\n')
    check_data(WorldConfig(model="m", dataset=str(path)))
    check_data(WorldConfig(model="m", dataset=str(path), columns=("group=thread",)))
    with pytest.raises(UserError, match=r"has no column 'tread' .*'thread'"):
        check_data(WorldConfig(model="m", dataset=str(path), columns=("group=tread",)))
    taken = []

    def rows():
        for number in range(1, 4):
            taken.append(number)
            yield number, {"prompt": "p", "chosen": "a", "rejected": "b"}

    check_usable(rows(), {}, "rows")
    assert taken == [1]


def test_prompts_are_read_before_anything_is_loaded(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n{"text": "b"}\n')
    (tmp_path / "p.txt").write_text("a\n\nb\n")
    world = {"model": "m", "reward": "preflab.rewards.examples:happy_story"}
    check_data(WorldConfig(**world, prompts=str(tmp_path / "p.txt")))
    with pytest.raises(UserError, match=r"has rows that are no prompt: missing field 'prompt': 1 \(row 2\)"):
        check_data(WorldConfig(**world, prompts=str(tmp_path / "p.jsonl")))
