"""What the phases of a training step hand on to each other. Shapes as in `training/step.py`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ialcms.data.batch import Batch
from ialcms.engine import Health
from ialcms.models import SeparatorOutput
from ialcms.training.consistency import ConsistencyLoss
from ialcms.training.memory_bank import Pairs

Scalars = dict[str, Tensor]


@dataclass(frozen=True)
class PairScores:
    independent: Tensor  # (p,), of the independent pairs
    dependent: Tensor  # (n,), of the dependent pairs
    weight_penalty: Tensor  # ||w||^2 of the critic


@dataclass(frozen=True)
class Learned:
    """Of one step."""

    scalars: Scalars  # without gradients
    health: Health


@dataclass(frozen=True)
class LossWeights:
    """At one step; on the device where it is recorded."""

    independence: float | Tensor
    consistency: float | Tensor


@dataclass(frozen=True)
class DrawnPairs:
    pairs: Pairs  # of the rank's whole batch
    check: Tensor  # NaN if a component of any rank is not finite

    def tensors(self) -> tuple[Tensor, ...]:
        """Waits for the partners."""
        return self.check, self.pairs.partners, self.pairs.independent, self.pairs.dependent

    @classmethod
    def from_tensors(cls, check: Tensor, partners: Tensor, *indices: Tensor) -> DrawnPairs:
        """The inverse of `tensors`."""
        return cls(Pairs(lambda: partners, *indices), check)


@dataclass(frozen=True)
class SeparatedBatch:
    parts: list[Batch]  # micro-batches
    outputs: list[SeparatorOutput] | None  # of the micro-batches with their graphs; None: separate again to learn
    magnitude: Tensor  # of the components of the whole batch, (B, M, O, F, T), without a graph
    consistency: ConsistencyLoss | None  # of the whole batch


class Means:
    """Means over the micro-batches of a step, by name. What is added under one name in a micro-batch is summed."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.values: Scalars = {}

    def add(self, name: str, value: Tensor) -> None:
        share = value.detach() if self._count == 1 else value.detach() / self._count
        self.values[name] = self.values[name] + share if name in self.values else share
