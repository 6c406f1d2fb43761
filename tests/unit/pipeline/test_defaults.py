"""Settings by size of model: which layer is taken, that every method can be built on it, and what is said."""

from __future__ import annotations

import json
import logging

import pytest

from preflab.errors import UserError
from preflab.eval.pipeline.comparing import COMPARE
from preflab.eval.pipeline.defaults import DEFAULTS, nearest
from preflab.eval.pipeline.entries import CompareConfig
from preflab.eval.pipeline.session import Session
from preflab.eval.pipeline.workers import at_a_time, check_workers, crew_of
from preflab.execution.executing import Here
from preflab.experiment.layers import Layers
from preflab.method import registry
from preflab.model.model_size import model_size
from preflab.settings.plain_yaml import read_yaml
from preflab.settings.training import RolloutConfig

SMALL = {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3}
SMOLLM2 = {**SMALL, "intermediate_size": 1536, "vocab_size": 49152, "max_position_embeddings": 8192}


def session(tmp_path, model, values=None, sections=None):
    data = tmp_path / "pairs.jsonl"
    data.write_text("{}\n")
    return Session({"model": str(model), "dataset": str(data), **(values or {})}, sections, COMPARE)


def folder(tmp_path, **config):
    path = tmp_path / "model"
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize(
    ("parameters", "size"),
    [(260_032, "tiny"), (135e6, "0.1b"), (361e6, "0.1b"), (494e6, "1b"), (2.5e9, "1b"), (3e9, "7b"), (70e9, "7b")],
)
def test_the_nearest_size_is_taken(parameters, size):
    assert nearest(parameters) == size
    assert nearest(None) == "1b"


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", 0.5e9),
        ("owner/SmolLM2-135M", 135e6),
        ("mistralai/Mixtral-8x7B-v0.1", 56e9),
        ("owner/llama-2-7b-4bit", 7e9),
        ("owner/model", None),
        ("owner/v2.0-base", None),
        ("no name: of a hub", None),
    ],
)
def test_a_hubs_name_tells_its_size(name, parameters):
    assert model_size(name) == (parameters, None)


def test_a_folder_tells_its_size_by_its_weights_else_by_its_config(tiny_model_path, tmp_path):
    from safetensors import safe_open

    with safe_open(tiny_model_path / "model.safetensors", "np") as file:
        counted = sum(file.get_tensor(key).size for key in file.keys())  # noqa: SIM118
    assert model_size(str(tiny_model_path)).parameters == counted
    assert model_size(str(folder(tmp_path, **SMOLLM2))) == (pytest.approx(134_515_008, rel=0.01), 8192)
    nested = folder(tmp_path, text_config=SMOLLM2, model_type="sees_too")
    assert model_size(str(nested)) == (pytest.approx(134_515_008, rel=0.01), 8192)
    assert model_size(str(folder(tmp_path, model_type="unheard_of"))) == (None, None)


def test_a_real_models_rates_go_by_its_size(tmp_path):
    sizes = {name: session(tmp_path, f"owner/x-{name}") for name in ("135M", "1B", "7B")}
    for method in ("sft", "reward", "dpo", "kto", "ppo", "rloo", "grpo", "online-dpo"):
        rates = [found.method(method).train.learning_rate for found in sizes.values()]
        assert rates == sorted(rates, reverse=True), method
        assert rates[0] <= 5e-4, "a model of one's own is not retrained"
    for name in ("trl-reward", "reward-pl"):
        assert sizes["7B"].method(name).train.learning_rate == sizes["7B"].method("reward").train.learning_rate
    limits = {(found.world.max_prompt_tokens, found.world.max_response_tokens) for found in sizes.values()}
    assert limits == {(1024, 512)}
    assert sizes["7B"].method("ppo").train.gradient_checkpointing


@pytest.mark.parametrize("size", ["135M", "1B", "7B"])
def test_every_method_can_be_built_at_every_size(size, tmp_path):
    """In batches that adapters take well: 16 to 64 texts a step, 64 answers a rollout."""
    found = session(tmp_path, f"owner/x-{size}")
    found.layers.check(())
    for name in registry.registered():
        method = found.method(name)
        if method.algorithm.kind == "decoder":
            continue
        rollouts = isinstance(method.config, RolloutConfig)
        k = method.config.samples_per_prompt if rollouts else 1
        assert 16 <= method.train.optimiser_batch * k <= 64, name
        assert 0 < method.train.warmup_steps <= 0.1, name
        if rollouts:
            assert method.config.rollout_prompts * k == 64, name


def test_tiny_models_keep_the_methods_own_defaults(tiny_model_path, tmp_path):
    found = session(tmp_path, tiny_model_path)
    for name in ("sft", "reward", "dpo", "ppo"):
        assert found.method(name).identity() == Layers([]).method(name).identity()


def test_which_layers_were_taken_is_said_and_recorded(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        found = session(tmp_path, "owner/said-135M")
        session(tmp_path, "owner/said-135M")
        session(tmp_path, "owner/silent")
    assert found.as_dict()["defaults"] == ["real", "model_0.1b", "model", "comparison_model", "comparison", "every"]
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith(
        "owner/said-135M has 135,000,000 parameters; settings start from every, comparison, comparison_model, model, "
    )
    assert said[1:] == ["how large owner/silent is cannot be told from here; settings are those of 1b"]
    assert "defaults" in Session({}).as_dict()


def test_what_is_given_beats_every_layer(tmp_path):
    found = session(tmp_path, "x-1B", {"max_response_tokens": 99, "lora_rank": 4}, {"pair": {"learning_rate": 0.5}})
    assert (found.world.max_response_tokens, found.lora.lora_rank) == (99, 4)
    assert found.method("dpo").train.learning_rate == 0.5


def test_passes_of_ones_own_size_leave_the_optimisers_batch_and_accumulation_makes_it(tmp_path):
    def trained(**section):
        return session(tmp_path, "x-1B", sections={"pair": section}).method("dpo").train

    assert trained().optimiser_batch == trained(per_device_train_batch_size=8).optimiser_batch == 32
    assert trained(per_device_train_batch_size="auto").optimiser_batch == 32
    assert trained(per_device_train_batch_size=2, gradient_accumulation_steps=3).optimiser_batch == 6
    assert trained(gradient_accumulation_steps=2).optimiser_batch == 8
    with pytest.raises(UserError, match="leave gradient_accumulation_steps out"):
        trained(train_batch_size=32, gradient_accumulation_steps=3)


def test_limits_that_nobody_gave_fit_the_models_positions(tmp_path, caplog):
    short = folder(tmp_path, **{**SMOLLM2, "max_position_embeddings": 1024})
    with caplog.at_level(logging.WARNING):
        found = session(tmp_path, short)
    assert (found.world.max_prompt_tokens, found.world.max_response_tokens) == (682, 341)
    assert "the model has 1024 positions: max_prompt_tokens 682, max_response_tokens 341" in caplog.text
    assert session(tmp_path, short, {"max_prompt_tokens": 900}).world.max_response_tokens == 124
    given = {"max_prompt_tokens": 900, "max_response_tokens": 500}
    assert session(tmp_path, short, given).world.max_prompt_tokens == 900, "refused where the model is looked at"


def test_the_files_of_defaults_hold_fields_that_there_are():
    for path in DEFAULTS.glob("*.yaml"):
        Session({"world": "exact"}, {k: v for k, v in read_yaml(path).items() if isinstance(v, dict)}).layers.check(())


def test_a_damaged_model_is_refused_as_it_is_everywhere(tmp_path):
    path = folder(tmp_path, **SMOLLM2)
    (path / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match="no whole safetensors file"):
        session(tmp_path, path)


def test_methods_are_compared_by_whole_replications_unless_it_is_quick(tmp_path):
    for values, seeds in (({}, (0, 1, 2)), ({"quick": True}, (0,)), ({"quick": True, "seeds": [3, 4]}, (3, 4))):
        found = Session(values, {}, COMPARE)
        assert found.run.seeds == seeds
        assert found.config(CompareConfig).sources == ("method", "reward", "start")
    assert Session({}, {}).run.seeds == (0,)


def test_stages_are_made_side_by_side_where_nothing_is_shared_that_cannot_be(monkeypatch):
    monkeypatch.setattr("preflab.eval.pipeline.workers.os.sched_getaffinity", lambda process: {0, 1, 2})

    def workers(**values):
        session = Session(values, {}, COMPARE)
        timed = session.config(CompareConfig).match == "time"
        check_workers(session, timed=timed)
        return at_a_time(session, timed=timed)

    asked = {
        "dataset": "owner/data",
        "model": "owner/tiny",
        "reward": "endpoint",
        "reward_endpoint_url": "http://localhost:1/v1",
    }
    asked["reward_endpoint_model"] = "m"
    assert workers() == 3
    assert workers(workers=2) == 2
    assert workers(match="time") == workers(threads=4) == workers(**asked) == 1
    with pytest.raises(UserError, match="at a pace and within a budget of its own"):
        workers(**asked, workers=2)
    with pytest.raises(UserError, match="one CPU thread"):
        workers(threads=4, workers=2)
    with pytest.raises(UserError, match="--match time measures"):
        workers(match="time", workers=2)


def test_gpus_have_a_process_each_and_no_more(monkeypatch):
    monkeypatch.setattr("preflab.execution.spawned.visible_devices", lambda: ["2", "3"])

    def workers(compares=True, **values):
        return at_a_time(Session(values, {}, COMPARE), timed=False, compares=compares)

    assert workers() == workers(model="owner/of-any-size") == 2
    assert workers(workers=1) == workers(compares=False) == 1
    assert workers(workers=2, threads=4) == 2, "threads are for what the CPU does beside"
    with pytest.raises(UserError, match="--workers 3: each has a GPU of its own, and 2 can be seen here"):
        workers(workers=3)
    session = Session({"threads": 4}, {}, COMPARE)
    crew = crew_of(session, None, 2, opens=None)
    assert [crew.environment(place)["CUDA_VISIBLE_DEVICES"] for place in range(2)] == ["2", "3"]
    assert crew.environment(0)["OMP_NUM_THREADS"] == "4"
    assert isinstance(crew_of(session, None, 1, opens=None), Here)
