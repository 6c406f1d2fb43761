"""Fine-tune a policy on demonstrations (or the chosen responses of a preference set).

    python recipes/sft.py                          the embedded reviews world
    python recipes/sft.py --model M --dataset D    your model, your preferences
    python recipes/sft.py --help all               every field

It is `preflab train sft`.
"""

from preflab.errors.answering import run_recipe
from preflab.recipes.train import train_one

if __name__ == "__main__":
    run_recipe(lambda: train_one(__doc__ or "", "sft"))
