"""Train the bases that come with the package, and put their weights where they are looked for (``bases/``)."""

from __future__ import annotations

from safetensors.torch import save_file

from preflab.worlds import WorldConfig
from preflab.worlds.reviews import split_prompts
from preflab.worlds.reviews.base import BASES, HEAD, QUICK, BaseSize, base_name, train_base


def main() -> None:
    """Train both, and leave no others there."""
    seed = WorldConfig().data_seed
    prompts = split_prompts(seed)["base"]
    BASES.mkdir(exist_ok=True)
    made = []
    for size in (BaseSize(), QUICK):
        model, _ = train_base(prompts, size, seed)
        state = {name: tensor for name, tensor in model.state_dict().items() if name != HEAD}
        made.append(BASES / f"{base_name(prompts, size, seed)}.safetensors")
        save_file(state, made[-1])
        made[-1].chmod(0o644)
    for other in set(BASES.iterdir()) - set(made):
        other.unlink()


if __name__ == "__main__":
    main()
