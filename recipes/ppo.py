"""Train a policy by PPO against a reward model, from SFT to held-out evaluation.

    python recipes/ppo.py                          the embedded reviews world
    python recipes/ppo.py --model M --dataset D    your model, your preferences
    python recipes/ppo.py --help all               every field

It is `preflab train ppo`.
"""

from preflab.errors.answering import run_recipe
from preflab.recipes.train import train_one

if __name__ == "__main__":
    run_recipe(lambda: train_one(__doc__ or "", "ppo"))
