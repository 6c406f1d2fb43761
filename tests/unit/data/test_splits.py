"""Splits by the hash of a group, leaks between them, fingerprints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from data_rows import BOT, USER, numbered, pair, say
from hypothesis import given
from hypothesis import strategies as st

from preflab.data.formats import preference_rows
from preflab.data.splits import check_leak, fingerprint, group_key, split_of, to_dataset

ROOT = Path(__file__).resolve().parents[3]


# 3. Splitting


def test_group_key_is_the_first_human_turn() -> None:
    keys = {
        group_key("Human: Hi  there\n\nAssistant:"),
        group_key("\n\nHuman: hi there\n\nAssistant: Yes?\n\nHuman: more\n\nAssistant:"),
        group_key([say("system", "s"), say(USER, "Hi there"), say(BOT, "Yes?")]),
        group_key("hi there"),
    }
    assert keys == {"hi there"}
    assert group_key([say("system", "s"), say(USER, " "), say(USER, "Hi")]) == "hi"
    assert group_key([say("system", "s"), say(BOT, "Yes?")]) == "s yes?", "one system text is no one dialogue"
    assert group_key("Once upon a time") == "once upon a time"
    assert group_key("Human:\n\nAssistant:") == "human: assistant:"  # no turn to go by: the whole prompt


FRACTIONS = {"heldout": 0.2, "gold": 0.2, "train": 0.6}


@given(st.text(), st.integers(0, 99))
def test_split_depends_on_key_and_seed_alone(key: str, seed: int) -> None:
    key = key.encode(errors="replace").decode()
    assert split_of(key, seed, FRACTIONS) == split_of(key, seed, dict(FRACTIONS)) in FRACTIONS


def test_splits_have_their_shares_and_never_change() -> None:
    names = [split_of(str(i), 0, FRACTIONS) for i in range(5000)]
    # Standard error of a share is at most sqrt(.24 / 5000) = .007; four of them.
    assert all(abs(names.count(name) / 5000 - share) < 0.028 for name, share in FRACTIONS.items())
    assert names != [split_of(str(i), 1, FRACTIONS) for i in range(5000)]
    # The first 8 bytes of sha256("0\n" + key), over 2**64: x .979, y .365, z .513, a .052. Another
    # rule would move people's held-out data into training.
    recorded = {"x": "train", "y": "gold", "z": "train", "a": "heldout"}
    assert {key: split_of(key, 0, FRACTIONS) for key in recorded} == recorded
    assert split_of("anything", 0, {"heldout": 0.0, "train": 1.0}) == "train"


def test_leaking_held_out_rows_are_dropped() -> None:
    train, _ = preference_rows(numbered(pair("Human: Hi\n\nAssistant:"), pair("Where?", group="g")))
    heldout, _ = preference_rows(
        numbered(
            pair("Human: Hi\n\nAssistant: Yes?\n\nHuman: Bye\n\nAssistant:"),  # same first turn
            pair(" where?", group="other"),  # same prompt but for case and space
            pair("new", group="g"),  # same group
            pair("fresh"),
        )
    )
    kept, leaked = check_leak(train, heldout)
    assert [row["prompt"] for row in kept] == ["fresh"]
    assert leaked == 3


def test_fingerprint_sees_content_and_order() -> None:
    base = [pair("a"), pair("b")]
    prints = [fingerprint(rows) for rows in (base, base[::-1], base[:1], [pair("a"), pair("b", "yes.")])]
    assert len(set(prints)) == 4
    assert all(len(p) == 16 and int(p, 16) >= 0 for p in prints)
    assert fingerprint(to_dataset(base)) == prints[0]


def test_importing_the_module_loads_neither_torch_nor_datasets() -> None:
    heavy = "{'torch', 'datasets', 'transformers'}"
    code = f"import preflab.data.splits, sys; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
