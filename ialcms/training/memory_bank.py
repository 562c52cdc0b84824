"""Independent and dependent pairs of separated components, and the memory bank that independent partners come from.

The components of the global batch are numbered in lane order, mixes one after the other: N of them, K = M*O a mix.
Pairs and bank are the same on every worker: indices come from a generator keyed by the global step, the bank's
content from the components of all workers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

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
    """This worker's pairs: its n components with gradients, then their n independent partners."""

    partners: Tensor  # (n, F, T) float32, without gradients
    independent: Tensor  # (p, 2) indices into cat([components, partners])
    dependent: Tensor  # (n, 2)


class MemoryBank(nn.Module):
    """Ring buffer of past components, (capacity, F, T) in float16; content and order are the same on all workers."""

    slots: Tensor
    filled: Tensor
    next_slot: Tensor

    def __init__(self, capacity: int, log_bins: int, num_frames: int) -> None:
        super().__init__()
        self.register_buffer("slots", torch.zeros(capacity, log_bins, num_frames, dtype=torch.float16))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))
        self.register_buffer("next_slot", torch.zeros((), dtype=torch.int64))
        self._filled, self._next = 0, 0  # host copies: no synchronisation with the device in a step

    def load_state_dict(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        result = super().load_state_dict(*args, **kwargs)
        self._filled, self._next = int(self.filled), int(self.next_slot)
        return result

    @torch.no_grad()
    def compact(self, components: Tensor) -> Tensor:
        """Components in the type in which the bank keeps them, NaN where they are not finite."""
        finite = torch.where(components.isfinite(), components, torch.nan)
        return finite.clamp(max=torch.finfo(self.slots.dtype).max).to(self.slots.dtype)

    @torch.no_grad()
    def pair(self, entering: Tensor, per_mix: int, first: int, count: int, seed: int, step: int) -> Pairs:
        """Draw the pairs of a step and let the batch's components enter.

        entering: (N, F, T) `compact` magnitudes of the whole global batch in lane order; this worker's are the `count`
        from `first` on.
        """
        capacity = len(self.slots)
        draws = uniforms(2 * len(entering), seed, "pairs", step).reshape(2, -1)
        plan = plan_pairs(draws, per_mix, self._filled, self._next, capacity)
        own = slice(first, first + count)
        device = entering.device
        slot = torch.as_tensor(plan.slot[own], device=device)
        member = torch.as_tensor(plan.member[own], device=device)
        in_bank = (slot >= 0)[:, None, None]
        partners = torch.where(in_bank, self.slots[slot.clamp(min=0)], entering[member.clamp(min=0)]).float()

        entries = np.arange(max(0, len(entering) - capacity), len(entering))  # of a huge batch only the newest stay
        self.slots[torch.as_tensor((self._next + entries) % capacity, device=device)] = entering[entries[0] :]
        self._next = (self._next + len(entering)) % capacity
        self._filled = min(capacity, self._filled + len(entering))
        self.filled.fill_(self._filled)
        self.next_slot.fill_(self._next)

        index = torch.arange(count, device=device)
        valid = torch.as_tensor(plan.valid[own], device=device)
        dependent = torch.as_tensor(plan.dependent[own] - first, device=device)
        return Pairs(
            partners=partners,
            independent=torch.stack([index, count + index], dim=1)[valid],
            dependent=torch.stack([index, dependent], dim=1),
        )
