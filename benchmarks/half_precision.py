"""How far log-probabilities in half precision are from float32: every path, and the model's own forward pass.

    python -m benchmarks.half_precision --model FOLDER [--data FILE.jsonl] [--rows 6] [--dtype bfloat16]

Without data, responses are drawn from the model, to prompts of its start token. Errors are those of token
log-probabilities, in nats, against the same weights in float32. The second table is of an adapter that moves a
log-probability by a tenth of a nat or so: the errors of log-ratios, which losses are made of.
"""

from __future__ import annotations

from preflab.method.contract import Batch


def batch_of(model: str, data: str | None, rows: int) -> Batch:
    """Return a batch of the data's first pairs."""
