"""Train a policy by direct preference optimisation, from SFT to held-out evaluation.

    python recipes/dpo.py                          the embedded reviews world
    python recipes/dpo.py --model M --dataset D    your model, your preferences
    python recipes/dpo.py --help all               every field

It is `preflab train dpo`.
"""

from preflab.errors.answering import run_recipe
from preflab.recipes.train import train_one

if __name__ == "__main__":
    run_recipe(lambda: train_one(__doc__ or "", "dpo"))
