"""Which components form pairs, and which rank has the partners: pure functions of numbers that all ranks know.

The components of the global batch are numbered in lane order, mixes one after the other: N of them, K = M*O a mix. Each
of W ranks makes n = N/W consecutive ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


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


def plan_pairs(draws: np.ndarray, per_mix: int, filled: int, *, next_slot: int, capacity: int) -> PairPlan:
    """Draw the partners of a global batch of N components by random numbers in [0, 1), draws (2, N).

    Components enter the bank in order, each right after its own draw; a component draws from the slots that are
    filled by then, but not from its own mix: such a pair would not be independent. While no slot is filled it draws
    from the other mixes of the batch; when there is none either (one mix, empty bank) it has no independent pair.

    per_mix: K. filled, next_slot, capacity: the bank before this batch.
    """
    num_components = draws.shape[1]
    index = np.arange(num_components)
    mix_start = index // per_mix * per_mix  # components that have entered before the own mix
    available = np.minimum(capacity, filled + mix_start)
    slot = np.floor(draws[0] * available).astype(np.int64)
    order = (slot - next_slot) % capacity  # of this batch's entries, the first one to enter the slot
    rewritten = (available > 0) & (order < mix_start)
    member = np.where(rewritten, order + (mix_start - 1 - order) // capacity * capacity, -1)

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
class BankLayout:
    """Which rank has a slot's content: the one that made it.

    Whole global batches enter the bank, so the last component of the last batch is in the slot before the next one,
    and a slot's distance from there says which component of a batch it holds. A rank counts what it has by age: 0 is
    the newest component that it has made.
    """

    capacity: int
    num_components: int  # N
    world_size: int

    @property
    def per_rank(self) -> int:
        """n."""
        return self.num_components // self.world_size

    def num_rows(self, rank: int) -> int:
        """How many slots of a full bank are a rank's: those of whole batches, and its part of the oldest, cut one."""
        whole, rest = divmod(self.capacity, self.num_components)
        first_of_rest = self.num_components - rest
        of_rest = (rank + 1) * self.per_rank - first_of_rest
        return whole * self.per_rank + min(max(of_rest, 0), self.per_rank)

    def owner(self, slot: np.ndarray, next_slot: int) -> np.ndarray:
        """The rank that has each slot."""
        return self._component(slot, next_slot) // self.per_rank

    def age(self, slot: np.ndarray, next_slot: int) -> np.ndarray:
        """The age of each slot's content among what its rank has."""
        batches = (next_slot - 1 - slot) % self.capacity // self.num_components
        from_end = self.per_rank - 1 - self._component(slot, next_slot) % self.per_rank
        return batches * self.per_rank + from_end  # type: ignore[no-any-return]

    def slot(self, rank: int, age: np.ndarray, next_slot: int) -> np.ndarray:
        """The slot of what a rank has; the inverse of `owner` and `age`."""
        batches, from_end = np.divmod(age, self.per_rank)
        after = (self.world_size - 1 - rank) * self.per_rank  # components of later ranks in the same batch
        return (next_slot - 1 - batches * self.num_components - after - from_end) % self.capacity  # type: ignore[no-any-return]

    def _component(self, slot: np.ndarray, next_slot: int) -> np.ndarray:
        """Its number in its batch."""
        back = (next_slot - 1 - slot) % self.capacity
        return self.num_components - 1 - back % self.num_components  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Exchange:
    """What one rank sends to each rank in a step, and what it receives: all independent partners, nothing else."""

    age: np.ndarray  # (m,) of the bank's components that are sent, -1 where a component of this batch is
    member: np.ndarray  # (m,) number among the rank's n of this batch, -1 where a component of the bank is sent
    num_sent: np.ndarray  # (W,) to each rank, in that order
    num_received: np.ndarray  # (W,) from each rank, in that order
    position: np.ndarray  # (n,) of each local component's partner among those received


def plan_exchange(plan: PairPlan, layout: BankLayout, next_slot: int, rank: int) -> Exchange:
    """The part of a rank. Where a component has no partner (a lone mix, so on one rank) anything is sent.

    plan: of all ranks. layout: of the bank, whose next component enters at `next_slot`.
    """
    per_rank = layout.per_rank
    in_bank = plan.slot >= 0
    of_member = plan.member.clip(min=0) // per_rank
    source = np.where(in_bank, layout.owner(plan.slot, next_slot), of_member)
    target = np.arange(len(source)) // per_rank

    sent = source == rank
    age = np.where(in_bank, layout.age(plan.slot, next_slot), -1)
    member = np.where(in_bank, -1, plan.member.clip(min=0) % per_rank)
    received = source[target == rank]
    position = np.empty(per_rank, dtype=np.int64)
    position[np.argsort(received, kind="stable")] = np.arange(per_rank)
    return Exchange(
        age=age[sent],
        member=member[sent],
        num_sent=np.bincount(target[sent], minlength=layout.world_size),
        num_received=np.bincount(received, minlength=layout.world_size),
        position=position,
    )
