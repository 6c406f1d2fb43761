"""Run in AlpacaEval's own environment: its length-controlled win rates of annotations.

Its model of wins asks the hub for the difficulty of its own 805 instructions, even where its formula leaves them out;
a file of zeros is put in its place.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from alpaca_eval.metrics import glm_winrate

MOST = 5000
UNPENALISED = {
    **glm_winrate.GLM_INFO["length_controlled_minimal"],
    "kwargs": {"n_splits": 0, "C": 1e6, "tol": 1e-8, "max_iter": 10_000},
}


def main() -> None:
    asked = json.loads(Path(sys.argv[1]).read_text())
    table = Path(sys.argv[1]).with_name("df_gamed.csv")
    pd.DataFrame({"model": "none", "index": range(MOST), "instruction_difficulty": 0.0}).to_csv(table, index=False)
    glm_winrate.hf_hub_download = lambda **_: str(table)
    fit, chosen = glm_winrate.fit_LogisticRegressionCV, []

    def noted(*arguments: Any, **more: Any) -> Any:
        model = fit(*arguments, **more)
        chosen.append(float(model.C_[0]) if hasattr(model, "C_") else model.C)
        return model

    glm_winrate.fit_LogisticRegressionCV = noted
    found = []
    for file in asked["annotations"]:
        rows = pd.DataFrame(json.loads(Path(file).read_text()))
        rates = glm_winrate.get_length_controlled_winrate(
            rows, glm_name="length_controlled_minimal", save_weights_dir=None
        )
        free = glm_winrate.get_length_controlled_winrate(rows, glm_info=UNPENALISED, save_weights_dir=None)
        said = {name: float(value) for name, value in rates.items()}
        found.append({**said, "weight": chosen[0], "unpenalised": float(free["length_controlled_winrate"])})
        chosen.clear()
    Path(asked["answer"]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
