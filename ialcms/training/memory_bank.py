"""Independent and dependent pairs of separated components, and the memory bank that independent partners come from.

The bank is spread over the ranks: each keeps the components that it made itself (`pair_plan.BankLayout`). All ranks
know which slots are filled and, by a generator keyed by the global step, who is drawn for whom. So a step sends the
partners alone, each to the rank that uses it, and pairs and partners are the same on any number of ranks.

Shapes: K = M*O components a mix, N in the global batch, n = N/W of them local to each of W ranks, F x T log-frequency
spectrograms.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ialcms.engine import Ranks, Readback, start_exchange_rows, to_device
from ialcms.rng import uniforms
from ialcms.training.pair_plan import BankLayout, Exchange, PairPlan, plan_exchange, plan_pairs

_DTYPE = torch.float16
_COLLECTED_ROWS = 256  # of all ranks together that rank 0 receives at a time for a checkpoint


@dataclass(frozen=True)
class Pairs:
    """This rank's pairs: its n components with gradients, then their n independent partners."""

    receive: Callable[[], Tensor]  # gives the partners, for which it may have to wait
    independent: Tensor  # (p, 2) indices into cat([components, partners])
    dependent: Tensor  # (n, 2)

    @functools.cached_property
    def partners(self) -> Tensor:
        """(n, F, T) float32, without gradients. What is computed before it is asked for hides the exchange."""
        return self.receive()


def empty_state(capacity: int, spectrogram: tuple[int, int]) -> dict[str, Tensor]:
    """`MemoryBank.state_dict` of a bank that nothing has entered. spectrogram: F and T."""
    slots = torch.zeros(capacity, *spectrogram, dtype=_DTYPE)
    return {"slots": slots, "filled": torch.tensor(0), "next_slot": torch.tensor(0)}


class MemoryBank:
    """Ring buffer of past components in float16. All ranks call its methods together."""

    def __init__(
        self, capacity: int, spectrogram: tuple[int, int], *, num_mixes: int, per_mix: int, seed: int, ranks: Ranks
    ) -> None:
        """capacity: slots. spectrogram: F and T. num_mixes: of the global batch. per_mix: K. seed: of the draws.

        ranks: that share the slots.
        """
        self._per_mix, self._seed, self._ranks = per_mix, seed, ranks
        self._layout = BankLayout(capacity, num_mixes * per_mix, ranks.world_size)
        self._num_rows = self._layout.num_rows(ranks.rank)
        # At least one row, so that an index always points at something. On one rank row s is slot s.
        self.rows = torch.zeros(max(self._num_rows, 1), *spectrogram, dtype=_DTYPE, device=ranks.device)
        # On the host, where the partners are drawn without asking the device.
        self.filled, self.next_slot, self._next_row = 0, 0, 0
        self._entering: Readback | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no earlier batch has entered."""
        self.settle()
        return self.filled == 0

    @torch.no_grad()
    def compact(self, components: Tensor) -> Tensor:
        """Components in the type in which the bank keeps them, NaN where they are not finite."""
        finite = torch.add(components, components, alpha=0)  # infinity times 0 is NaN
        return finite.clamp(max=torch.finfo(_DTYPE).max).to(_DTYPE)

    @torch.no_grad()
    def pair(self, entering: Tensor, step: int, check: Tensor) -> Pairs:
        """Draw the pairs of a step, begin to exchange the partners, and let the batch's components enter.

        entering: (n, F, T) local components, `compact`. check: a scalar, the same on all ranks, that is not finite
        where they must not enter; then the bank stays as it is.
        """
        self.settle()
        layout = self._layout
        draws = uniforms(2 * layout.num_components, self._seed, "pairs", step).reshape(2, -1)
        plan = plan_pairs(draws, self._per_mix, self.filled, next_slot=self.next_slot, capacity=layout.capacity)
        exchange = plan_exchange(plan, layout, self.next_slot, rank=self._ranks.rank)
        index = self._indices(plan, exchange)

        from_batch = entering.index_select(0, index.member)
        sent = torch.where(index.in_bank[:, None, None], self.rows.index_select(0, index.row), from_batch)
        arriving = start_exchange_rows(
            sent, exchange.num_sent.tolist(), exchange.num_received.tolist(), ranks=self._ranks, kind="bank"
        )

        newest = entering[len(entering) - len(index.entry) :]
        self.rows.index_copy_(
            0, index.entry, torch.where(check.isfinite(), newest, self.rows.index_select(0, index.entry))
        )
        self._entering = Readback(check.view(1))
        if not self._ranks.reads_late:
            self.settle()

        def partners() -> Tensor:
            received = arriving.wait()
            return (received if self._ranks.world_size == 1 else received.index_select(0, index.position)).float()

        return Pairs(partners, index.independent, index.dependent)

    def settle(self) -> None:
        """Count the last batch in, if it entered; waits until that is known."""
        entering, self._entering = self._entering, None
        if entering is None or not math.isfinite(entering.tolist()[0]):
            return
        capacity, num_components = self._layout.capacity, self._layout.num_components
        self.filled = min(capacity, self.filled + num_components)
        self.next_slot = (self.next_slot + num_components) % capacity
        self._next_row = self._row_after(self._layout.per_rank)

    def replicas(self) -> Iterator[tuple[str, Tensor]]:
        """What must be the same on all ranks, with names."""
        self.settle()
        yield "filled", torch.tensor(self.filled)
        yield "next_slot", torch.tensor(self.next_slot)

    def state_dict(self) -> dict[str, Tensor]:
        """All slots in order, (capacity, F, T), on rank 0 alone, collected in the host's memory; the rest on all."""
        state = dict(self.replicas())
        slots = self.rows if self._ranks.world_size == 1 else self._collect()
        return state if slots is None else {"slots": slots, **state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state of any number of ranks; each rank has it whole. ValueError where it does not fit."""
        slots, filled, next_slot = state["slots"], int(state["filled"]), int(state["next_slot"])
        capacity = self._layout.capacity
        expected = (capacity, *self.rows.shape[1:])
        if tuple(slots.shape) != expected:
            raise ValueError(f"the memory bank has the shape {tuple(slots.shape)}, expected is {expected}")
        if not 0 <= filled <= capacity or not 0 <= next_slot < capacity:
            raise ValueError(f"the memory bank has {filled} of {capacity} slots filled and slot {next_slot} is next")
        self.filled, self.next_slot, self._entering = filled, next_slot, None
        self._next_row = next_slot % max(self._num_rows, 1)
        age = np.arange(self._num_rows)
        index = torch.from_numpy(self._layout.slot(self._ranks.rank, age, next_slot))
        self.rows[torch.from_numpy(self._row(age))] = slots[index].to(self.rows)

    def _collect(self) -> Tensor | None:
        """The slots, on rank 0; in rounds of a few rows, so that no device has to hold them all."""
        ranks, layout = self._ranks, self._layout
        counts = [layout.num_rows(rank) for rank in range(ranks.world_size)]
        of_rank = max(_COLLECTED_ROWS // ranks.world_size, 1)
        slots = torch.zeros(layout.capacity, *self.rows.shape[1:], dtype=_DTYPE) if ranks.is_first else None
        for first in range(0, max(counts), of_rank):
            ages = [np.arange(first, max(first, min(first + of_rank, count))) for count in counts]
            num_sent = [len(ages[ranks.rank]), *[0] * (ranks.world_size - 1)]
            num_received = [len(age) if ranks.is_first else 0 for age in ages]
            sent = self.rows[torch.from_numpy(self._row(ages[ranks.rank]))]
            received = start_exchange_rows(sent, num_sent, num_received, ranks=ranks).wait()
            if slots is not None:
                index = [layout.slot(rank, age, self.next_slot) for rank, age in enumerate(ages)]
                slots[torch.from_numpy(np.concatenate(index))] = received.cpu()
        return slots

    def _row(self, age: np.ndarray) -> np.ndarray:
        """Where this rank has its component of an age."""
        return (self._next_row - 1 - age) % max(self._num_rows, 1)  # type: ignore[no-any-return]

    def _row_after(self, count: int) -> int:
        return (self._next_row + count) % max(self._num_rows, 1)

    def _indices(self, plan: PairPlan, exchange: Exchange) -> _Indices:
        """All together in one copy to the device."""
        count = self._layout.per_rank
        first = self._ranks.rank * count
        index = np.arange(count)
        valid = plan.valid[first : first + count]
        assert valid.all() or not valid.any(), "only a lone mix has no independent partners, and then none of it has"
        num_entering = min(count, self._num_rows)  # of a huge batch only the newest stay
        together = [
            self._row(exchange.age.clip(min=0)),
            exchange.member.clip(min=0),
            exchange.age >= 0,
            exchange.position,
            np.stack([index, count + index], axis=1),
            np.stack([index, plan.dependent[first : first + count] - first], axis=1),
            (self._next_row + index[count - num_entering :]) % max(self._num_rows, 1),
        ]
        flat = np.concatenate([part.astype(np.int64).ravel() for part in together])
        parts = to_device(torch.from_numpy(flat), self._ranks.device).split([part.size for part in together])
        independent = parts[4].view(-1, 2)
        return _Indices(
            row=parts[0],
            member=parts[1],
            in_bank=parts[2] > 0,
            position=parts[3],
            independent=independent if valid.all() else independent[:0],
            dependent=parts[5].view(-1, 2),
            entry=parts[6],
        )


@dataclass(frozen=True)
class _Indices:
    """A step's plan on the device, for the m components that this rank sends and the n that it has."""

    row: Tensor  # (m,) row of the bank; any where a component of this batch is sent
    member: Tensor  # (m,) component of this batch; any where one of the bank is sent
    in_bank: Tensor  # (m,) bool
    position: Tensor  # (n,) of each component's partner among those received
    independent: Tensor  # (n, 2), or (0, 2) where there are no independent partners
    dependent: Tensor  # (n, 2)
    entry: Tensor  # (at most n,) rows that are written
