from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ialcms.engine import Ranks
from ialcms.rng import uniforms
from ialcms.training.memory_bank import MemoryBank
from ialcms.training.pair_plan import BankLayout, plan_exchange, plan_pairs

FINE = torch.zeros(())


def components(first: int, count: int) -> torch.Tensor:
    """Component n is filled with the number n, so that a partner shows which one it is."""
    return torch.arange(first, first + count, dtype=torch.float32).view(-1, 1, 1).expand(-1, 2, 2).contiguous()


def bank(capacity: int, num_components: int, per_mix: int, seed: int = 0) -> MemoryBank:
    return MemoryBank(capacity, (2, 2), num_mixes=num_components // per_mix, per_mix=per_mix, seed=seed, ranks=Ranks())


def test_bank_against_a_simulation() -> None:
    """Slots, order and every draw equal those of a plain list that components enter one after the other."""
    capacity, count, per_mix = 10, 12, 4
    ours = bank(capacity, count, per_mix, seed=3)
    history: list[int] = []
    for step in range(6):
        pairs = ours.pair(ours.compact(components(100 * step, count)), step, FINE)
        partners = pairs.partners[:, 0, 0].int().tolist()
        for n in range(count):
            seen = history + [100 * step + m for m in range(n // per_mix * per_mix)]
            own_mix = {100 * step + n // per_mix * per_mix + k for k in range(per_mix)}
            if seen:
                assert partners[n] in seen[-capacity:]
            else:
                assert 0 <= partners[n] < count
            assert partners[n] not in own_mix
        history += [100 * step + n for n in range(count)]
        ring = sorted(int(value) for value in ours.state_dict()["slots"][: ours.filled, 0, 0])
        assert ring == sorted(history[-capacity:])
    assert ours.filled == capacity


def test_dependent_partner_is_another_component_of_the_mix() -> None:
    plan = plan_pairs(uniforms(12_000, "test").reshape(2, -1), 6, 0, next_slot=0, capacity=10)
    index = np.arange(6_000)
    assert (plan.dependent != index).all()
    assert (plan.dependent // 6 == index // 6).all()
    # each of the five others equally often: 1,200 draws each, five standard deviations
    shift = (plan.dependent - index) % 6
    assert np.abs(np.bincount(shift, minlength=6)[1:] - 1_200).max() < 5 * np.sqrt(6_000 * 0.2 * 0.8)


def test_independent_partners_are_uniform_over_filled_slots() -> None:
    counts = np.zeros(100)
    for step in range(400):
        plan = plan_pairs(uniforms(8, "test", step).reshape(2, 4), 4, 50, next_slot=50, capacity=100)
        counts += np.bincount(plan.slot, minlength=100)
    assert counts[50:].sum() == 0  # never an empty slot
    assert np.abs(counts[:50] - 32).max() < 5 * np.sqrt(32)


def test_a_lone_mix_with_an_empty_bank_has_no_independent_pairs() -> None:
    ours = bank(8, 2, 2)
    first = ours.pair(ours.compact(components(0, 2)), 0, FINE)
    assert len(first.independent) == 0
    assert len(first.dependent) == 2
    second = ours.pair(ours.compact(components(10, 2)), 1, FINE)
    assert set(second.partners[:, 0, 0].tolist()) <= {0.0, 1.0}
    assert len(second.independent) == 2


LAYOUTS = [(24, 16, 4), (10, 16, 4), (3, 16, 4), (100, 24, 3), (48, 24, 24), (25, 8, 1), (7, 6, 6)]


@pytest.mark.parametrize(("capacity", "num_components", "world_size"), LAYOUTS)
def test_each_slot_is_with_the_rank_that_filled_it(capacity: int, num_components: int, world_size: int) -> None:
    """Against a ring that remembers for each slot the rank and how many components that rank had made before."""
    layout = BankLayout(capacity, num_components, world_size)
    per_rank, slots, next_slot = layout.per_rank, np.arange(capacity), 0
    makers, numbers = np.full(capacity, -1), np.full(capacity, -1)
    for batch in range(2 + 2 * capacity // num_components):
        for component in range(num_components):
            slot = (next_slot + component) % capacity
            makers[slot] = component // per_rank
            numbers[slot] = batch * per_rank + component % per_rank
        next_slot = (next_slot + num_components) % capacity
        filled = numbers >= 0
        newest = (batch + 1) * per_rank - 1
        assert (layout.owner(slots, next_slot)[filled] == makers[filled]).all()
        assert (layout.age(slots, next_slot)[filled] == (newest - numbers)[filled]).all()
    counts = np.bincount(makers, minlength=world_size)
    assert counts.tolist() == [layout.num_rows(rank) for rank in range(world_size)]
    for rank, count in enumerate(counts):
        held = layout.slot(rank, np.arange(count), next_slot)
        assert sorted(held) == np.flatnonzero(makers == rank).tolist()
        assert layout.age(held, next_slot).tolist() == list(range(count))


@pytest.mark.parametrize(("capacity", "num_components", "world_size"), LAYOUTS)
def test_ranks_agree_on_what_is_sent(capacity: int, num_components: int, world_size: int) -> None:
    layout = BankLayout(capacity, num_components, world_size)
    received = 0
    for step in range(5):
        filled, next_slot = min(capacity, step * num_components), step * num_components % capacity
        draws = uniforms(2 * num_components, "test", step).reshape(2, -1)
        plan = plan_pairs(draws, 1, filled, next_slot=next_slot, capacity=capacity)
        parts = [plan_exchange(plan, layout, next_slot, rank) for rank in range(world_size)]
        for rank, part in enumerate(parts):
            assert [other.num_sent[rank] for other in parts] == part.num_received.tolist()
            assert part.num_received.sum() == layout.per_rank  # the partners that it uses, and nothing else
            assert (part.age < max(layout.num_rows(rank), 1)).all()
            assert ((part.age < 0) != (part.member < 0)).all()
        received += sum(int(part.num_received.sum()) for part in parts)
    assert received == 5 * num_components


def test_resumed_bank_has_the_same_pairs() -> None:
    ours, resumed = bank(10, 8, 4, seed=1), bank(10, 8, 4, seed=1)
    ours.pair(ours.compact(components(0, 8)), 0, FINE)
    resumed.load_state_dict(ours.state_dict())
    for step in (1, 2):
        first, second = (b.pair(b.compact(components(100 * step, 8)), step, FINE) for b in (ours, resumed))
        assert torch.equal(first.partners, second.partners)
    assert torch.equal(ours.state_dict()["slots"], resumed.state_dict()["slots"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slots": torch.zeros(9, 2, 2)}, r"shape \(9, 2, 2\), expected is \(10, 2, 2\)"),
        ({"filled": torch.tensor(11)}, "11 of 10 slots filled"),
        ({"next_slot": torch.tensor(-1)}, "slot -1 is next"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    ours = bank(10, 8, 4)
    with pytest.raises(ValueError, match=message):
        ours.load_state_dict({**ours.state_dict(), **change})


def test_components_that_are_not_finite_do_not_enter() -> None:
    ours = bank(10, 8, 4)
    ours.pair(ours.compact(components(0, 8)), 0, FINE)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    ours.pair(ours.compact(components(0, 8) * torch.nan), 1, torch.tensor(torch.nan))
    for name, value in ours.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_huge_magnitudes_stay_finite() -> None:
    ours = bank(4, 4, 2)
    ours.pair(ours.compact(torch.full((4, 2, 2), 1e6)), 0, FINE)
    assert ours.filled == 4
    assert torch.isfinite(ours.state_dict()["slots"]).all()


def test_what_is_not_finite_is_not_made_finite() -> None:
    assert bank(4, 4, 2).compact(torch.tensor([[[torch.inf, torch.nan]]])).isnan().all()
