"""What fits: how much of an optimiser batch goes through a pass together, and whether activations are kept for it."""

from __future__ import annotations

from preflab import ranks
from preflab.settings.training import TrainConfig


class Fitting:
    """The micro-batch and the checkpointing of a run, as the settings say or as its memory turns out to allow.

    Only what the settings leave open (``auto``) is ever tightened. No result depends on it but by rounding: losses
    are summed over the optimiser batch, which stays.

    Settings mean the optimiser batch of all processes; each passes its own part of it.

    Attributes:
        batch: prompts of the optimiser batch.
        whole: those of this process's part.
        size: prompts in a pass; it divides those of the part.
        recomputes: whether activations are computed again in the backward pass rather than kept.
    """

    def __init__(self, train: TrainConfig) -> None:
        self.batch = train.optimiser_batch
        self.whole = self.batch // ranks.ranks()
        self.size = next(size for size in range(min(train.micro_batch, self.whole), 0, -1) if self.whole % size == 0)
        self.recomputes = train.gradient_checkpointing is True
        self._finds_size = train.per_device_train_batch_size == "auto"
        self._may_recompute = train.gradient_checkpointing == "auto"

    @property
    def per_step(self) -> int:
        """Micro-batches of an optimiser step."""
        return self.whole // self.size

    @property
    def own(self) -> slice:
        """Which rows of an optimiser batch are this process's part."""
        return slice(ranks.rank() * self.whole, (ranks.rank() + 1) * self.whole)

    @property
    def is_open(self) -> bool:
        """Whether the settings leave anything to be found out."""
        return self._finds_size or self._may_recompute

    def tighten(self) -> str | None:
        """Ask for less memory: half the micro-batch, or recomputed activations where one prompt is still too much.

        Returns:
            What has changed, in words; None where nothing is left to change.
        """
        if self._finds_size and self.size > 1:
            self.size = next(size for size in range(self.size // 2, 0, -1) if self.whole % size == 0)
            return f"{self.size} of {self.whole} prompts go through a pass together"
        if self._may_recompute and not self.recomputes:
            # Memory per prompt is another one now, so that the search begins anew.
            self.recomputes, self.size = True, self.whole if self._finds_size else self.size
            return f"activations are recomputed, {self.size} of {self.whole} prompts go through a pass together"
        return None

    def carried(self) -> dict[str, int | bool]:
        """Return what a checkpoint keeps of it: the rest of an interrupted run then rounds as it would have."""
        return {"size": self.size, "recomputes": self.recomputes}

    def go_on(self, carried: dict[str, int | bool]) -> None:
        """Take what a checkpoint kept."""
        self.size, self.recomputes = int(carried["size"]), bool(carried["recomputes"])
