import math
import threading
from types import SimpleNamespace

import pytest
import torch

from benchmarks import against_trl, arithmetic, growth, levers, pages, profile
from benchmarks.bench import Bench, make_roles
from benchmarks.floor import Seen, decoding, floor
from benchmarks.shapes import END, SHAPES, make_groups, make_model
from benchmarks.workloads import TRL_1_12, WORKLOADS, Job, Result, models, run_alone
from preflab.data.batches import collate
from preflab.errors import UserError
from preflab.method.configured import make_method
from preflab.sampling import decoding as decoding_module
from preflab.sampling.sampler import TransformersSampler
from preflab.scoring import logps as scoring
from preflab.scoring import lora, packing
from preflab.settings.training import LoraSettings


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(make_model(tmp_path_factory.mktemp("model"), "toy"))


def job(model, workload, side="native", **changes):
    return Job(workload, side, "toy", model, "8/8", 1, 2)._replace(**changes)


@pytest.fixture
def in_process(monkeypatch):
    for module in (against_trl, growth):
        monkeypatch.setattr(module, "run_alone", lambda job: Bench(job).train())


@pytest.fixture
def page(tmp_path, monkeypatch):
    path = tmp_path / "benchmarks.md"
    names = ("trl-toy", "profile-toy", "growth-toy", "levers-toy", "arithmetic-toy")
    path.write_text("".join(f"<!-- figures:{name} -->\n<!-- /figures -->\n" for name in names))
    for module in (against_trl, profile, growth, levers, arithmetic):
        monkeypatch.setattr(module, "BENCHMARKS", path)
    return path


def rows(page, first):
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.read_text().splitlines()]
    return [line for line in lines if line[0] == first]


# ---- shapes and rows ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "millions"),
    [("llama-5.6m", 5.6), ("llama-60m", 61), ("qwen2.5-0.5b", 494), ("qwen2.5-1.5b", 1544), ("qwen2.5-7b", 7616)],
)
def test_shapes_have_the_size_they_are_called_by(name, millions):
    shape, gated = SHAPES[name], 3
    width = shape.hidden // shape.heads * shape.key_value_heads
    layer = 2 * shape.hidden**2 + 2 * shape.hidden * width + gated * shape.hidden * shape.intermediate
    total = shape.layers * layer + shape.vocabulary * shape.hidden * (1 if shape.tied else 2)
    assert total / 1e6 == pytest.approx(millions, rel=0.02)


def test_the_model_that_ends_early_does_so_at_the_rate_asked_for(tmp_path):
    folder = make_model(tmp_path, "toy", end_rate=0.25)
    [lengths] = {r.first["response_length"] for r in [Bench(job(str(folder), "ppo-ending", lengths="8/64")).train()]}
    assert 2 < lengths < 8  # 1 / 0.25 = 4 on average, of 8 prompts
    from transformers import AutoModelForCausalLM

    ids = torch.randint(4, 512, (16, 32), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        share = AutoModelForCausalLM.from_pretrained(folder)(ids).logits.softmax(-1)[..., END].mean()
    assert share == pytest.approx(0.25, abs=0.03)


def test_models_are_made_once_for_workloads_that_share_them():
    with models("toy", ["dpo", "reward", "ppo-ending"], ["8/8", "8/4"]) as found:
        assert len(set(found.values())) == 3
        assert found["dpo", "8/8"] == found["reward", "8/4"] != found["ppo-ending", "8/8"]


# ---- against TRL -------------------------------------------------------------------------------------


def test_both_sides_have_the_same_losses_of_the_same_tokens(model):
    for name in ("dpo", "dpo-cached", "reward", "kto"):
        bench = Bench(job(model, name))
        native, trl = bench.train(), Bench(job(model, name, "trl")).train()
        assert len(native.losses) == 3
        assert len(set(native.losses)) > 1
        assert native.losses == pytest.approx(trl.losses, rel=1e-5)
        read = [bench.groups[row] for row in bench.source().order.take(0, 6)]
        tokens = sum(len(group.prompt_ids) + sum(map(len, group.response_ids)) for group in read) / 3
        for side in (native, trl):
            assert side.tokens_per_second * side.seconds == pytest.approx(tokens)


def test_a_row_for_the_page(in_process, page, capsys):
    options = ["--preset", "toy", "--workloads", "grpo", "--pairs", "1", "--warm-up", "1", "--steps", "1", "--write"]
    against_trl.main(options)
    [row] = rows(page, "grpo")
    assert len(row) == len(against_trl.HEADINGS)
    assert row[1] == "8/8"
    assert "response length 8 / 8" in row[-1]


def test_medians_and_agreement_of_pairs():
    def result(seconds, size, losses):
        return Result(seconds, 1000 / seconds, size * 2**20, losses, {})

    pairs = [
        (result(1.0, 100, [1.0, 0.5]), result(2.0, 200, [1.0, 0.5])),
        (result(1.0, 100, [1.0, 0.5]), result(3.0, 400, [1.0, 0.4])),
        (result(2.0, 100, [1.0, 0.5]), result(3.0, 200, [1.0, 0.5])),
    ]
    found = against_trl.cells(pairs)
    assert found == ["**2.00** [1.50, 3.00]", "1", "3", "1,000", "333", "100", "200", "0.50"]
    assert against_trl.agreement(pairs) == "losses of 2 steps within 2.0e-01"


def test_a_side_that_fails_says_why(monkeypatch):
    monkeypatch.setattr(against_trl, "run_alone", lambda job: "out of memory" if job.side == "trl" else None)
    found = against_trl.row(job("", "dpo"), 2)
    assert len(found) == len(against_trl.HEADINGS)
    assert found[-1] == "trl: out of memory"


@pytest.mark.parametrize(
    "options",
    [["--preset", "cpuu"], ["--workloads", "dpoo"], ["--lengths", "64"], ["--steps", "0"], ["--workloads", "ranking"]],
)
def test_mistakes_on_the_command_line_are_answered(options):
    with pytest.raises(UserError):
        against_trl.main(options)


def test_a_run_in_a_process_of_its_own(model, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as here: more threads add in another order
    found = run_alone(job(model, "dpo"))
    assert found.losses == Bench(job(model, "dpo")).train().losses
    assert run_alone(job(model, "dpo", preset="none")) == "KeyError: 'none'"


@pytest.mark.skipif(not TRL_1_12.exists(), reason="no environment with TRL 1.12; make trl-1.12")
def test_ppo_of_trl_1_12_trains_on_the_same_model(model):
    native, trl = Bench(job(model, "ppo")).train(), run_alone(job(model, "ppo", "trl"))
    assert trl.first["response_length"] == native.first["response_length"] == 8
    assert trl.first["entropy"] == pytest.approx(native.first["entropy"], abs=0.05)
    assert trl.first["entropy"] == pytest.approx(math.log(SHAPES["toy"].vocabulary), abs=0.05)
    assert len(trl.losses) == 3


# ---- profile and floor -------------------------------------------------------------------------------


def test_a_profile_of_each_kind_of_method(page, capsys):
    from accelerate import Accelerator

    before = Accelerator.backward
    profile.main(["--preset", "toy", "--workloads", "dpo,ppo-joint", "--warm-up", "1", "--steps", "1", "--write"])
    assert Accelerator.backward is before
    [dpo], [ppo] = rows(page, "dpo"), rows(page, "ppo-joint")
    named = dict(zip(profile.HEADINGS, ppo, strict=True))
    stages = [float(named[name].partition(" ")[0]) for name in profile.STAGES]
    assert min(stages) > 0
    assert sum(stages) == pytest.approx(float(named["all"]), rel=0.02)
    assert dict(zip(profile.HEADINGS, dpo, strict=True))["rollout"] == "–"


def test_time_inside_a_stage_counts_once(monkeypatch):
    times = iter(range(100))
    monkeypatch.setattr(profile, "now", lambda: float(next(times)))
    stages = profile.Stages(0)
    outer = stages.timed(lambda: inner(), lambda: "outer")
    inner = stages.timed(lambda: None, lambda: "inner")
    outer()
    assert stages.seconds == {"overhead": 1.0, "outer": 2.0, "inner": 1.0}


class Unit:
    """A machine of one FLOP and one byte a second."""

    weights, cache, bandwidth = 1000, 10, 1.0

    def flops(self, tokens):
        return 1.0


def test_the_floor_of_dpo_is_its_arithmetic(model):
    bench = Bench(job(model, "dpo"))
    batch = collate(make_groups(2, 8, 8, vocabulary=512), 0)
    lengths = batch.response_mask.sum(-1)
    body, head, pairs = 0, int(lengths.sum()), 0
    for row in lengths.tolist():
        body += 8 + sum(n - 1 for n in row)  # the prompt once, and no last token
        pairs += 8 * 8 + sum((n - 1) * (8 + n - 1) for n in row)
    shape, layers = SHAPES["toy"], 2
    per_layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64
    # The last layer has queries, output and MLP of response tokens alone, which see all before them.
    late, spared = per_layer - 2 * 32 * 16, body - head
    spared_pairs = pairs - sum(n * (8 + n - 1) for n in lengths.flatten().tolist())
    policy = bench.roles.adapter_size("policy")
    of_policy = 2 * (policy.all * body - policy.late * spared)
    attention = 4 * 32 * (layers * pairs - spared_pairs)
    base = 2 * (layers * per_layer * body - late * spared) + 2 * shape.vocabulary * 32 * head + attention
    found = floor(bench, Seen([], [batch], 3), Unit())
    assert found["scoring"] == base
    assert found["forward"] == base + of_policy
    # Of frozen matrices the input's gradient; of adapters the weights' too; of attention both operands'.
    assert found["backward"] == base + of_policy * 2 + attention
    assert found["optimiser"] == 3 * 7 * 4 * policy.all
    scored = batch.replace(reference_logps=torch.zeros(lengths.shape))
    assert "scoring" not in floor(bench, Seen([], [scored], 3), Unit())


def test_decoding_reads_the_weights_once_a_step_and_the_cache_of_what_goes_on():
    batch = collate(make_groups(1, 4, 8, k=2, vocabulary=512), 0)
    lengths = batch.response_mask.sum(-1)[0].tolist()
    (prefill, _, _), (tokens, together, traffic) = decoding(batch, Unit())
    assert prefill.body == 4
    context = sum(4 + i for n in lengths for i in range(1, n))
    assert tokens.pairs == context
    assert together == 2
    assert traffic == (max(lengths) - 1) * 1000 + context * 10


# ---- levers ------------------------------------------------------------------------------------------


def seams():
    return [dict(scoring.PATHS), scoring.token_logps, lora.folds, packing._whole, levers.at_once]


def test_levers_are_taken_away_and_put_back(page, capsys):
    before = seams()
    levers.main(["--preset", "toy", "--repeats", "1", "--write"])
    assert seams() == before
    for lever in levers.LEVERS:
        assert [row[2] for row in rows(page, lever.title)].count(lever.on) == 1


def of_one_pass():
    return [lever for lever in levers.LEVERS if lever.on != levers.BOTH]


@pytest.mark.parametrize("lever", of_one_pass(), ids=lambda lever: f"{lever.title}, {lever.on}")
def test_a_lever_changes_how_a_pass_is_made_and_not_what_it_says(lever, model):
    roles = make_roles(make_method("ppo"), model, LoraSettings())
    batch = collate(make_groups(2, 8, 8, lever.k, vocabulary=512), 0)
    sampler = TransformersSampler(END, 0, 8)

    def found():
        if lever.on == "rollout":
            return sampler(roles, "policy", [[5, 6], [7]], k=1, temperature=1.0, seed=0).batch.response_mask.any(-1)
        roles.learn((lever.on,))
        return getattr(roles(batch, (lever.on,)), levers.FIELDS[lever.on])

    found()
    with lever.base(roles):
        expected, patched = found(), [*seams(), decoding_module._FEEDERS.get(roles.model)]
        with lever.off(roles):
            assert [*seams(), decoding_module._FEEDERS.get(roles.model)] != patched
            torch.testing.assert_close(found(), expected, atol=1e-4, rtol=1e-4)


def test_passes_at_once_have_the_gradients_of_passes_in_turn_and_a_share_of_the_threads(model):
    batch = collate(make_groups(2, 8, 8, 1, vocabulary=512), 0)
    both = {role: make_roles(make_method("ppo"), model, LoraSettings()) for role in ("policy", "value")}
    threads = []

    def run(role):
        threads.append((threading.get_ident(), torch.get_num_threads()))
        both[role].learn((role,))
        getattr(both[role](batch, (role,)), levers.FIELDS[role]).square().sum().backward()

    def gradients(made):
        made([lambda: run("policy"), lambda: run("value")])
        found = [p.grad for role in both for p in both[role].parameters_of(role)]
        for roles in both.values():
            roles.zero_grad()
        return found

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        found = gradients(levers.at_once)
        assert torch.get_num_threads() == 4
        with levers.in_turn(None):
            expected = gradients(levers.at_once)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found, expected)
    assert any(grad.abs().sum() > 0 for grad in found)
    here = threading.get_ident()
    assert [(ident == here, count) for ident, count in threads] == [(False, 2)] * 2 + [(True, 4)] * 2


# ---- arithmetic --------------------------------------------------------------------------------------


def test_what_both_sides_multiply_is_counted_per_unit(model, monkeypatch, page, capsys):
    monkeypatch.setattr(arithmetic, "run_alone", lambda job, module: arithmetic.counted(job))
    arithmetic.main(["--preset", "toy", "--workloads", "dpo", "--warm-up", "1", "--steps", "1", "--write"])
    [row] = rows(page, "dpo")
    native, trl = float(row[2]), float(row[3])
    assert float(row[4].strip("*")) == pytest.approx(trl / native, abs=0.02)
    assert trl > native  # its prompts run twice, and through the head
    few, many = (arithmetic.counted(job(model, "reward", units=units)).seconds for units in (1, 9))
    assert few == pytest.approx(many, rel=0.2)  # of a step, however many; the trial of paths is no part of one


# ---- growth ------------------------------------------------------------------------------------------


def test_growth_finds_the_line(monkeypatch, page, capsys):
    seconds = {"32": 1.0, "64": 1.5, "128": 2.5}
    result = lambda job: SimpleNamespace(seconds=seconds[job.lengths.partition("/")[2]])  # noqa: E731
    monkeypatch.setattr(growth, "run_alone", result)
    growth.main(["--preset", "toy", "--series", "length", "--points", "3", "--repeats", "1", "--write"])
    [row] = rows(page, growth.SERIES["length"].title)
    assert row[2:] == ["500 ms + 15.6 ms per token", "0.0 %", "1.0000"]
    assert page.with_name("growth-toy.svg").stat().st_size > 0


def test_the_distance_from_the_line_is_relative():
    line = growth.fit([0, 1, 2], [1.0, 2.5, 3.0])
    assert line.slope == pytest.approx(1.0)
    assert line.intercept == pytest.approx(7 / 6)
    assert line.worst == pytest.approx((2.5 - 13 / 6) / (13 / 6))


@pytest.mark.parametrize(("name", "first"), [("k", {"k": 2}), ("samples", {"values": {"samples_per_prompt": 2}})])
def test_growth_changes_what_it_says(model, name, first):
    series = growth.SERIES[name]
    changed = series.at(job(model, series.workload), 2)
    assert changed._asdict().items() >= first.items()
    bench = Bench(changed)
    assert bench.method.config.samples_per_prompt == 2 if bench.sampled else len(bench.groups[0].response_ids) == 2


# ---- pages -------------------------------------------------------------------------------------------


def test_rows_are_replaced_by_their_keys(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- figures:a -->\n<!-- /figures -->\nafter\n<!-- figures:ab -->\nx\n<!-- /figures -->\n")
    pages.update(page, "a", ["name", "value"], [["x", "1"], ["y", "2"]], keys=1)
    pages.update(page, "a", ["name", "value"], [["x", "3"], ["z", "4"]], keys=1)
    lines = page.read_text().splitlines()
    assert lines[:8] == ["before", "<!-- figures:a -->", "| name | value |", "| ---: | ---: |",
                         "| x | 3 |", "| y | 2 |", "| z | 4 |", "<!-- /figures -->"]  # fmt: skip
    assert lines[8:] == ["after", "<!-- figures:ab -->", "x", "<!-- /figures -->"]
    pages.update(page, "a", ["name", "other"], [["x", "5"]], keys=1)
    assert "| y | 2 |" not in page.read_text()
    with pytest.raises(SystemExit, match="figures:b"):
        pages.write(page, "b", "")


def test_every_workload_can_be_made_ready(model):
    for name, what in WORKLOADS.items():
        made = Bench(job(model, name))
        assert made.method.name == what.method
        assert made.sampled == (name.split("-")[0] in ("rloo", "grpo", "ppo"))
