"""The frontier: closed forms, independent loops, invariances, refusals."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from rewards_drawn import curve, normal_samples

from preflab.eval.frontier import (
    frontier,
    sampled_oracle,
)
from preflab.eval.records.frontier import Frontier
from preflab.eval.records.typed import from_json, to_json


def test_the_record_is_whole_and_the_same_again():
    rewards = normal_samples(256, 64)
    points = curve("a", [0.1, 0.3], math.sqrt, prompts=256, noise=0.1) + curve("b", [0.1, 0.3], math.sqrt, 1, 256, 0.1)
    points[0] = points[0]._replace(proxy_reward=np.ones(256))
    record = frontier(points, sampled_oracle(rewards), rewards)
    assert from_json(Frontier, json.loads(json.dumps(to_json(record), allow_nan=False))) == record
    assert record.points[0].setting == {"k": 0.1}
    assert record.points[0].proxy_reward.mean == 1.0
    assert record.points[1].proxy_reward is None
    assert record.points[1].attainable.mean == pytest.approx(1 / math.sqrt(2), rel=0.05)
    assert record.points[1].under_the_line.holds is True
    assert record == frontier(points, sampled_oracle(rewards), rewards)
    bare = frontier(points)
    assert bare.oracle is bare.points[0].attainable is bare.points[0].under_the_line is None
    assert bare.best_of_n == ()


def test_no_torch_is_loaded(tmp_path):
    import subprocess
    import sys

    command = "import sys, preflab.eval.frontier; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0
