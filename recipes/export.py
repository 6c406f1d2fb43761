"""Write samples and scores as other tools read them: AlpacaEval, RewardBench.

python recipes/export.py runs/a/stages/eval-dpo-seed0-… --alpaca model_outputs.json --generator dpo
python recipes/export.py runs/a/stages/eval-reward-…    --scores scores.jsonl
python recipes/export.py pairs.jsonl                    --rewardbench rewardbench.jsonl
"""

from preflab.errors.answering import run_recipe
from preflab.eval.exports import main

__all__ = ["main"]

if __name__ == "__main__":
    run_recipe(main)
