"""Train a reward model on preference pairs (Bradley-Terry).

    python recipes/reward_model.py                          the embedded reviews world
    python recipes/reward_model.py --model M --dataset D    your model, your preferences
    python recipes/reward_model.py --help all               every field

It is `preflab train reward`.
"""

from preflab.errors.answering import run_recipe
from preflab.recipes.train import train_one

if __name__ == "__main__":
    run_recipe(lambda: train_one(__doc__ or "", "reward"))
