"""What every method must keep, whatever its loss: each check runs on any method and says what is wrong, if anything."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from preflab.eval.conformance.workbench import Run, counts_good, open_source, roles_for, small, train
from preflab.method.configured import Method
from preflab.method.contract import Batch, Labels, Loss, LossMethod, Scores, unit_mask
from preflab.method.maths import masked_sum
from preflab.method.records import FIELDS
from preflab.model.roles import Roles
from preflab.settings.training import RolloutConfig
from preflab.training.sources import Source

TOLERANCE = 1e-6  # float64, but the norms of some models are float32
PLAIN = {"optim": "sgd", "learning_rate": 0.1}  # Adam would hide a gradient of the wrong size


ELSEWHERE = {"trainer": "brings its own trainer", "decoder": "trains nothing"}


class NotApplicableError(Exception):
    """The check means nothing for this method, and why."""


class KilledError(Exception):
    """A run dies, as by a signal."""


def first_batch(method: Method) -> tuple[Roles, LossMethod, Batch]:
    """Return roles ready to train, the algorithm, and its first micro-batch."""
    roles, algorithm = roles_for(method), in_our_loop(method)
    return roles, algorithm, next(open_source(method, algorithm, roles).batches(0))


def reduced(loss: Loss, batch: Batch, method: Method) -> Tensor:
    """Return the loss as the trainer averages it."""
    mask = unit_mask(batch, method.needs.unit)
    return loss.values.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)


def in_our_loop(method: Method) -> LossMethod:
    """Return the algorithm, fresh; raise `NotApplicableError` where it is of another kind than a loss."""
    algorithm = method.fresh()
    if algorithm.kind != "loss":
        raise NotApplicableError(ELSEWHERE[algorithm.kind])
    return algorithm


# ---- the loss ----------------------------------------------------------------------------------------


def finite_loss(method: Method) -> str | None:
    """The loss has the shape of its unit and is finite, and its metrics are those declared."""
    in_our_loop(method)
    method = small(method)
    roles, algorithm, batch = first_batch(method)
    loss = algorithm.loss(batch, roles(batch, method.needs.scores))
    mask = unit_mask(batch, method.needs.unit)
    if loss.values.shape != mask.shape:
        return f"shape {tuple(loss.values.shape)} for unit {method.needs.unit!r}, which is {tuple(mask.shape)}"
    if not loss.values[mask].isfinite().all():
        return "not finite"
    return None


def declared_metrics(method: Method) -> str | None:
    """The metrics of the loss are those declared, with finite sums."""
    in_our_loop(method)
    method = small(method)
    roles, algorithm, batch = first_batch(method)
    found = algorithm.loss(batch, roles(batch, method.needs.scores)).metrics
    if set(found) != set(algorithm.metrics):
        return f"logs {sorted(found)}, declares {sorted(algorithm.metrics)}"
    wrong = [name for name, mean in found.items() if not (mean.total.isfinite() and mean.items.isfinite())]
    return f"{', '.join(wrong)} not finite" if wrong else None


def masked_junk(method: Method) -> str | None:
    """Longer padding on both sides, junk under it, and another order of rows change nothing."""
    in_our_loop(method)
    method = small(method)
    roles, algorithm, batch = first_batch(method)
    plain = algorithm.loss(batch, roles(batch, method.needs.scores))
    order = torch.arange(len(batch.prompt_ids) - 1, -1, -1)
    other = _junk(batch.rows(order))
    values = algorithm.loss(other, _with_junk(roles(other, method.needs.scores), other)).values
    mask = unit_mask(batch, method.needs.unit)[order]
    width = mask.shape[-1]
    if method.needs.unit == "token":
        values = values[..., :width]
    misfit = (values - plain.values[order])[mask].abs().max().item()
    return None if misfit <= TOLERANCE else f"the loss of a row changes by {misfit:.1e}"


def _junk(batch: Batch) -> Batch:
    pad, width = torch.nn.functional.pad, batch.response_ids.shape[-1]
    ids = pad(batch.response_ids, (0, 3), value=9)
    mask = pad(batch.response_mask, (0, 3), value=False)
    prompts, prompt_mask = pad(batch.prompt_ids, (4, 0), value=9), pad(batch.prompt_mask, (4, 0), value=False)

    def wide(x: Tensor) -> Tensor:
        return pad(x, (0, 3)).masked_fill(~mask, float("nan")) if x.ndim == 3 and x.shape[-1] == width else x

    reference = None if batch.reference_logps is None else wide(batch.reference_logps)
    return Batch(prompts, prompt_mask, ids.masked_fill(~mask, 9), mask, batch.feedback.changed(wide), reference)


def _with_junk(scores: Scores, batch: Batch) -> Scores:
    mask = batch.response_mask
    return Scores(*(x if x is None or x.ndim < 3 else x.masked_fill(~mask, float("nan")) for x in scores))


def direction(method: Method) -> str | None:
    """A step down the loss goes the right way: better responses gain on worse ones.

    The loss with its sign flipped fails this check.
    """
    method = small(method)
    roles, algorithm = roles_for(method), in_our_loop(method)
    source = open_source(method, algorithm, roles)
    batch = next(source.batches(0))
    drawn = source.take_metrics().get("reward")
    better = _better(method, batch, float(drawn.total / drawn.items) if drawn else 0.0)
    scores, leaf = _scores_against(method, batch, better, roles)
    loss = algorithm.loss(batch, scores).values.masked_fill(~unit_mask(batch, method.needs.unit), 0.0).sum()
    (gradient,) = torch.autograd.grad(loss, leaf)
    if leaf.ndim == 3:
        gradient = masked_sum(gradient, batch.response_mask)
    gain = -(gradient * better).sum().item()
    return None if gain > 0 else f"a step changes better responses' lead by {gain:.1e} per unit of rate"


def _better(method: Method, batch: Batch, usual: float) -> Tensor:
    """Return how much better each response is than others, ``[B, K]``; `usual` is the mean reward of samples."""
    mask, size = batch.response_mask.any(-1).double(), batch.response_ids.shape[1]
    labels = batch.feedback if isinstance(batch.feedback, Labels) else Labels()
    if labels.desirable is not None:
        return (2 * labels.desirable.double() - 1)[:, None] * mask
    if method.needs.responses == "sampled" and labels.preference is None:
        return (counts_good(batch) - usual) * mask
    if size == 1:
        return mask
    rank = torch.arange(size, dtype=torch.float64).expand(len(mask), -1)
    return ((rank * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1) - rank) * mask


def _scores_against(method: Method, batch: Batch, better: Tensor, roles: Roles) -> tuple[Scores, Tensor]:
    """Return scores that err against `better`, by some nats, and the leaf whose gradient is asked for."""
    mask, needs = batch.response_mask, method.needs
    generator = torch.Generator().manual_seed(0)
    noise = 0.1 * torch.randn(mask.shape, generator=generator, dtype=torch.float64)
    sampled = needs.responses == "sampled"
    start = roles(batch, ("policy",)).logps.detach() if sampled else noise - 2
    if needs.trains[0] == "reward":
        leaf = (-better).clone().requires_grad_()
        return Scores(rewards=leaf), leaf
    # On-policy ratios start at 1; offline methods find the order wrong, by as much for each pair.
    lengths = mask.sum(-1).clamp(min=1)
    off = 0.0 if sampled else 3.5 * (better / lengths).unsqueeze(-1)
    leaf = (start - off).masked_fill(~mask, 0.0).requires_grad_()
    at_hand = start if batch.reference_logps is None else batch.reference_logps.double()
    reference = at_hand if needs.uses("reference") else None
    values = start.new_zeros(mask.shape) if "value" in needs.scores else None
    return Scores(leaf, reference, values), leaf


# ---- training ----------------------------------------------------------------------------------------


def own_gradients(method: Method) -> str | None:
    """Gradients reach the adapters and heads of the roles that learn, and nothing else; apart, where they say so."""
    in_our_loop(method)
    method = small(method)
    roles, algorithm, batch = first_batch(method)
    own = {id(p) for p in roles.learn(method.needs.trains)}
    loss = reduced(algorithm.loss(batch, roles(batch, method.needs.scores)), batch, method)
    torch.autograd.backward(loss)
    strays = [n for n, p in roles.named_parameters() if p.grad is not None and id(p) not in own]
    if strays:
        return f"gradient in {strays[0]}"
    for role in method.needs.trains:
        if not any(p.grad is not None and p.grad.abs().max() > 0 for p in roles.parameters_of(role)):
            return f"no gradient in {role}"
    return _entangled(method, algorithm, batch, roles(batch, method.needs.scores)) if method.needs.separable else None


def _entangled(method: Method, algorithm: LossMethod, batch: Batch, scores: Scores) -> str | None:
    """Say which learning role's gradient hangs on another one's scores, if any does."""
    fields, given = {role: FIELDS[role] for role in method.needs.trains}, scores._asdict()
    for role, field in fields.items():
        gradients = []
        for factor in (1.0, 0.0):
            others = {name: given[name].detach() * factor for name in fields.values() if name != field}
            leaf = given[field].detach().requires_grad_()
            loss = reduced(algorithm.loss(batch, scores._replace(**others, **{field: leaf})), batch, method)
            gradients.append(torch.autograd.grad(loss, leaf)[0])
        if not torch.allclose(gradients[0], gradients[1], atol=1e-12):
            return f"says it is separable, but {role}'s gradient hangs on others' scores"
    return None


def frozen_roles(method: Method) -> str | None:
    """Base, reference and reward model are bit for bit what they were; what should learn has moved."""
    in_our_loop(method)
    if isinstance(method.config, RolloutConfig) and method.config.reference_mixup:
        raise NotApplicableError("moves its reference")
    method = small(method, max_steps=6)  # past a first rollout of four
    before = {name: x.clone() for name, x in roles_for(method).state_dict().items()}
    roles = _run(method).roles
    own = {id(p) for role in method.needs.trains for p in roles.parameters_of(role)}
    moved = {n for n, p in roles.named_parameters(remove_duplicate=False) if not torch.equal(p, before[n])}
    strays = moved - {n for n, p in roles.named_parameters(remove_duplicate=False) if id(p) in own}
    if strays:
        return f"{min(strays)} moved"
    still = [r for r in method.needs.trains if not any(f".{r}." in f".{n}." or r == "value" for n in moved)]
    return f"{still[0]} did not move" if still else None


def same_seed(method: Method) -> str | None:
    """Two runs of one seed are one run, bit for bit."""
    in_our_loop(method)
    method = small(method)
    return _differ(method, _run(method), _run(method), 0.0)


def resumed(method: Method) -> str | None:
    """A run that was killed and goes on from its checkpoint ends as one that was not."""
    in_our_loop(method)
    # Two rollouts (each of 2 · 8 / 4 steps), so that what is carried from one to the next counts.
    method = small(method, max_steps=8, save_steps=4, lr_scheduler_type="cosine")
    whole = _run(method)

    def dying(batches: Iterator[Batch]) -> Iterator[Batch]:
        yield from itertools.islice(batches, 6)
        raise KilledError

    with tempfile.TemporaryDirectory() as folder:
        try:
            train(method, Path(folder), wrap=lambda source: _changed(source, dying))
        except KilledError:
            pass
        return _differ(method, whole, train(method, Path(folder)), TOLERANCE)


def accumulation(method: Method) -> str | None:
    """Eight micro-batches of one make the same steps as one batch of eight."""
    in_our_loop(method)
    whole = _run(small(method, **PLAIN, per_device_train_batch_size=8, max_steps=3))
    parts = _run(small(method, **PLAIN, per_device_train_batch_size=1, gradient_accumulation_steps=8, max_steps=3))
    return _differ(method, whole, parts, TOLERANCE)


def padding(method: Method) -> str | None:
    """Junk columns on both sides of every batch leave the trained weights as they are."""
    in_our_loop(method)

    def padded(batches: Iterator[Batch]) -> Iterator[Batch]:
        return map(_junk, batches)

    method = small(method, **PLAIN)
    return _differ(method, _run(method), _run(method, lambda source: _changed(source, padded)), TOLERANCE)


def _changed(source: Source, change: Callable[[Iterator[Batch]], Iterator[Batch]]) -> Source:
    """Change what a source yields, and nothing else about it."""
    batches = source.batches
    source.batches = lambda start_step: change(batches(start_step))  # type: ignore[method-assign]
    return source


def _run(method: Method, wrap: Callable[[Source], Source] = lambda source: source) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        return train(method, Path(folder), wrap=wrap)


def _differ(method: Method, one: Run, other: Run, tolerance: float) -> str | None:
    for role in method.needs.trains:
        for mine, theirs in zip(one.roles.parameters_of(role), other.roles.parameters_of(role), strict=True):
            misfit = (mine - theirs).abs().max().item()
            if not misfit <= tolerance:
                return f"weights of {role} differ by {misfit:.1e}"
    return None


CHECKS: dict[str, Callable[[Method], str | None]] = {
    "finite loss": finite_loss,
    "declared metrics": declared_metrics,
    "masked junk": masked_junk,
    "direction": direction,
    "own gradients": own_gradients,
    "frozen roles": frozen_roles,
    "same seed": same_seed,
    "resumed": resumed,
    "accumulation": accumulation,
    "padding": padding,
}
"""Every check by name: None where it holds, else what is wrong."""
