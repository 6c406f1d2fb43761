"""Write samples, scores, pairs and reward models as other tools read them: AlpacaEval, RewardBench, lm_eval, TRL.

python recipes/export.py runs/a/stages/eval-dpo-seed0-… --alpaca model_outputs.json --generator dpo
python recipes/export.py pairs.jsonl                    --rewardbench rewardbench.jsonl
python recipes/export.py runs/a/stages/reward-…/reward  --classifier merged
"""

from preflab.errors.answering import run_recipe
from preflab.eval.exports.command import main

__all__ = ["main"]

if __name__ == "__main__":
    run_recipe(main)
