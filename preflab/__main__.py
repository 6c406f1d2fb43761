"""``python -m preflab``: the command, where its folder is on no path."""

from preflab.recipes.command import run

if __name__ == "__main__":
    run()
