"""A rank's share of the global batch in micro-batches, for gradient accumulation.

Micro-batch a of A has the rank's mixes a, a + A, a + 2A, ... As every rank owns consecutive lanes, that is lanes
a, a + A, ... of the global batch, whatever the number of ranks.

Shapes: B mixes of this rank, K = M*O components a mix, n = B*K.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ialcms.data.batch import Batch
from ialcms.models import SeparatorOutput
from ialcms.training.memory_bank import Pairs


def split_batch(batch: Batch, count: int) -> list[Batch]:
    """The micro-batches of a rank's batch."""
    return [
        replace(
            batch,
            mix=batch.mix[part::count],
            mixtures=batch.mixtures[part::count],
            objects=batch.objects[part::count],
            keys=batch.keys[part::count],
        )
        for part in range(count)
    ]


def split(rows: Tensor, count: int) -> list[Tensor]:
    """A tensor with one row a mix in micro-batches."""
    return [rows[part::count] for part in range(count)]


def join(parts: Sequence[Tensor]) -> Tensor:
    """The inverse of `split`."""
    return parts[0] if len(parts) == 1 else torch.stack(list(parts), dim=1).flatten(0, 1)


def split_pairs(pairs: Pairs, per_mix: int, count: int) -> list[Pairs]:
    """The pairs of each micro-batch's components. Both components of a dependent pair are of one mix."""
    if count == 1:
        return [pairs]
    components = torch.arange(len(pairs.dependent), device=pairs.dependent.device)
    # Only a lone mix can lack an independent partner, and a lone mix is not split.
    assert len(pairs.independent) == len(components)
    parts = []
    for mixes in split(components.view(-1, per_mix), count):
        members = mixes.flatten()
        index = torch.arange(len(members), device=members.device)
        index_of = torch.empty_like(components)  # a component's index in the micro-batch
        index_of[members] = index
        parts.append(
            Pairs(
                receive=lambda members=members: pairs.partners[members],  # type: ignore[misc]
                independent=torch.stack([index, len(members) + index], dim=1),
                dependent=index_of[pairs.dependent[members]],
            )
        )
    return parts


@dataclass(frozen=True)
class Components:
    """The parts of the separator's output that losses over the global batch need, without its graph; one row a mix."""

    magnitude: Tensor  # (B, M, O, F, T)
    visual: Tensor  # (B, M, O, D, H, W)
    audio: Tensor  # (B, M, O, D)

    @classmethod
    def of(cls, output: SeparatorOutput) -> Components:
        return cls(output.magnitude.detach(), output.visual_for_loss.detach(), output.audio_embedding.detach())

    @classmethod
    def joined(cls, parts: Sequence[Components]) -> Components:
        """All micro-batches together, given in order."""
        joined = {}
        for field in fields(cls):
            joined[field.name] = join([getattr(part, field.name) for part in parts])
        return cls(**joined)
