"""What training changes from step to step, and nothing else."""

from typing import Any

from flax import struct


class TrainState(struct.PyTreeNode):
    """The whole state of one training phase; every leaf is saved in a checkpoint.

    Attributes:
      step: i32[], optimiser steps taken in this phase, which is also the position in its data.
      params: trained parameters, float32.
      batch_stats: running statistics of batch normalisation.
      memory: tables the losses keep, such as the lookup table and the queue of OIM.
      opt_state: state of the optax optimiser.
      rng: typed key; the step folds its number into it, so the key itself never changes.

    All may be arrays or, in a template, their shapes.
    """

    step: Any
    params: Any
    batch_stats: Any
    memory: Any
    opt_state: Any
    rng: Any

    @property
    def variables(self) -> dict[str, Any]:
        """The collections a system takes: params, batch_stats and memory."""
        return {"params": self.params, "batch_stats": self.batch_stats, "memory": self.memory}
