"""Independent and dependent pairs of separated components, and the memory bank that independent partners come from.

The components of the global batch are numbered in lane order, mixes one after the other: N of them, K = M*O a mix.
Pairs and bank are the same on every rank: indices come from a generator keyed by the global step, the bank's
content from the components of all ranks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ialcms.engine import Readback, to_device
from ialcms.rng import uniforms


@dataclass(frozen=True)
class PairPlan:
    """For each of the N components of a global batch, in order."""

    slot: np.ndarray  # (N,) bank slot of the independent partner, -1 where the partner is of this batch
    member: np.ndarray  # (N,) component of this batch that is the independent partner, -1 where it is not
    dependent: np.ndarray  # (N,) another component of the same mix

    @property
    def valid(self) -> np.ndarray:
        """(N,) whether there is an independent partner at all."""
        return (self.slot >= 0) | (self.member >= 0)


def plan_pairs(draws: np.ndarray, per_mix: int, filled: int, next_slot: int, capacity: int) -> PairPlan:
    """Draw the partners of a global batch of N components by random numbers in [0, 1), draws (2, N).

    Components enter the bank in order, each right after its own draw; a component draws from the slots that are
    filled by then, but not from its own mix: such a pair would not be independent. While no slot is filled it draws
    from the other mixes of the batch; when there is none either (one mix, empty bank) it has no independent pair.

    filled, next_slot, capacity: the bank before this batch.
    """
    num_components = draws.shape[1]
    index = np.arange(num_components)
    mix_start = index // per_mix * per_mix  # components that have entered before the own mix
    available = np.minimum(capacity, filled + mix_start)
    slot = np.floor(draws[0] * available).astype(np.int64)
    age = (slot - next_slot) % capacity  # the slot's place in the order of this batch's entries
    rewritten = (available > 0) & (age < mix_start)
    member = np.where(rewritten, age + (mix_start - 1 - age) // capacity * capacity, -1)

    empty = available == 0
    others = num_components - per_mix
    if others > 0:
        other = np.floor(draws[0] * others).astype(np.int64)
        member = np.where(empty, other + (other >= mix_start) * per_mix, member)
    slot = np.where(rewritten | empty, -1, slot)

    offset = 1 + np.floor(draws[1] * (per_mix - 1)).astype(np.int64)
    dependent = mix_start + (index - mix_start + offset) % per_mix
    return PairPlan(slot, member, dependent)


@dataclass(frozen=True)
class Pairs:
    """This rank's pairs: its n components with gradients, then their n independent partners."""

    partners: Tensor  # (n, F, T) float32, without gradients
    independent: Tensor  # (p, 2) indices into cat([components, partners])
    dependent: Tensor  # (n, 2)


class MemoryBank(nn.Module):
    """Ring buffer of past components, (capacity, F, T) in float16; content and order are the same on all ranks."""

    slots: Tensor
    filled: Tensor
    next_slot: Tensor

    def __init__(self, capacity: int, log_bins: int, num_frames: int) -> None:
        super().__init__()
        self.register_buffer("slots", torch.zeros(capacity, log_bins, num_frames, dtype=torch.float16))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))
        self.register_buffer("next_slot", torch.zeros((), dtype=torch.int64))
        # On the host too: there the partners are drawn, without asking the device.
        self._filled, self._next = 0, 0
        self._entering: _Entering | None = None

    def load_state_dict(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        result = super().load_state_dict(*args, **kwargs)
        self._filled, self._next, self._entering = int(self.filled), int(self.next_slot), None
        return result

    def state_dict(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        self.settle()
        return super().state_dict(*args, **kwargs)

    @torch.no_grad()
    def compact(self, components: Tensor) -> Tensor:
        """Components in the type in which the bank keeps them, NaN where they are not finite."""
        finite = torch.add(components, components, alpha=0)  # infinity times 0 is NaN
        return finite.clamp(max=torch.finfo(self.slots.dtype).max).to(self.slots.dtype)

    @torch.no_grad()
    def pair(
        self,
        entering: Tensor,
        per_mix: int,
        first: int,
        count: int,
        seed: int,
        step: int,
        check: Tensor | None = None,
    ) -> Pairs:
        """Draw the pairs of a step and let the batch's components enter.

        entering: (N, F, T) `compact` magnitudes of the whole global batch in lane order; this rank's are the `count`
        from `first` on. check: a scalar that is not finite where they must not enter; then the bank stays as it is.
        """
        self.settle()
        capacity, num_components = len(self.slots), len(entering)
        draws = uniforms(2 * num_components, seed, "pairs", step).reshape(2, -1)
        plan = plan_pairs(draws, per_mix, self._filled, self._next, capacity)
        entries = np.arange(max(0, num_components - capacity), num_components)  # of a huge batch only the newest stay
        index = _indices(plan, slice(first, first + count), (self._next + entries) % capacity, entering.device)

        of_batch = entering.index_select(0, index.member)
        partners = torch.where(index.in_bank[:, None, None], self.slots.index_select(0, index.slot), of_batch).float()
        values = entering[entries[0] :]
        if check is not None:
            values = torch.where(check.isfinite(), values, self.slots.index_select(0, index.entry))
        self.slots.index_copy_(0, index.entry, values)
        self._entering = _Entering(num_components, None if check is None else Readback(check.view(1)))
        if entering.device.type == "cpu":
            self.settle()
        return Pairs(partners, index.independent, index.dependent)

    def settle(self) -> None:
        """Count the last batch in, if it entered; waits until that is known."""
        entering, self._entering = self._entering, None
        if entering is None or not entering.is_sound():
            return
        capacity = len(self.slots)
        self._next = (self._next + entering.count) % capacity
        self._filled = min(capacity, self._filled + entering.count)
        self.filled.fill_(self._filled)
        self.next_slot.fill_(self._next)


@dataclass(frozen=True)
class _Entering:
    """Components that enter, unless they turn out not to be finite."""

    count: int
    check: Readback | None

    def is_sound(self) -> bool:
        return self.check is None or math.isfinite(self.check.tolist()[0])


@dataclass(frozen=True)
class _Indices:
    """A step's plan on the device, for the n own of N components."""

    slot: Tensor  # (n,) bank slot of the independent partner; any where it is of this batch
    member: Tensor  # (n,) component of this batch; any where the partner is from the bank
    in_bank: Tensor  # (n,) bool
    independent: Tensor  # (n, 2), or (0, 2) where there are no independent partners
    dependent: Tensor  # (n, 2)
    entry: Tensor  # (at most N,) slots that are written


def _indices(plan: PairPlan, own: slice, entry: np.ndarray, device: torch.device) -> _Indices:
    """All together in one copy to the device."""
    slot, member = plan.slot[own], plan.member[own]
    index = np.arange(len(slot))
    valid = plan.valid[own]
    assert valid.all() or not valid.any(), "only a lone mix has no independent partners, and then none of it has"
    together = [
        slot.clip(min=0),
        member.clip(min=0),
        slot >= 0,
        np.stack([index, len(index) + index], axis=1),
        np.stack([index, plan.dependent[own] - own.start], axis=1),
        entry,
    ]
    flat = np.concatenate([part.astype(np.int64).ravel() for part in together])
    parts = to_device(torch.from_numpy(flat), device).split([part.size for part in together])
    independent = parts[3].view(-1, 2)
    return _Indices(
        slot=parts[0],
        member=parts[1],
        in_bank=parts[2] > 0,
        independent=independent if valid.all() else independent[:0],
        dependent=parts[4].view(-1, 2),
        entry=parts[5],
    )
