from __future__ import annotations

import numpy as np
import pytest
import torch

from ialcms.rng import uniforms
from ialcms.training.memory_bank import MemoryBank, plan_pairs


def components(first: int, count: int) -> torch.Tensor:
    """Component n is filled with the number n, so that a partner tells who it is."""
    return torch.arange(first, first + count, dtype=torch.float32).view(-1, 1, 1).expand(-1, 2, 2).contiguous()


def test_bank_against_a_simulation() -> None:
    """Slots, order and every draw equal those of a plain list that components enter one after the other."""
    capacity, count, per_mix = 10, 12, 4
    bank = MemoryBank(capacity, 2, 2)
    history: list[int] = []
    for step in range(6):
        batch = components(100 * step, count)
        pairs = bank.pair(bank.compact(batch), per_mix, 0, count, seed=3, step=step)
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
        ring = sorted(int(value) for value in bank.slots[: int(bank.filled), 0, 0])
        assert ring == sorted(history[-capacity:])
    assert int(bank.filled) == capacity


def test_dependent_partner_is_another_component_of_the_mix() -> None:
    plan = plan_pairs(uniforms(12_000, "test").reshape(2, -1), per_mix=6, filled=0, next_slot=0, capacity=10)
    index = np.arange(6_000)
    assert (plan.dependent != index).all()
    assert (plan.dependent // 6 == index // 6).all()
    # each of the five others equally often: 1,200 draws each, five standard deviations
    shift = (plan.dependent - index) % 6
    assert np.abs(np.bincount(shift, minlength=6)[1:] - 1_200).max() < 5 * np.sqrt(6_000 * 0.2 * 0.8)


def test_independent_partners_are_uniform_over_filled_slots() -> None:
    counts = np.zeros(100)
    for step in range(400):
        plan = plan_pairs(uniforms(8, "test", step).reshape(2, 4), per_mix=4, filled=50, next_slot=50, capacity=100)
        counts += np.bincount(plan.slot, minlength=100)
    assert counts[50:].sum() == 0  # never an empty slot
    assert np.abs(counts[:50] - 32).max() < 5 * np.sqrt(32)


def test_a_lone_mix_with_an_empty_bank_has_no_independent_pairs() -> None:
    bank = MemoryBank(8, 2, 2)
    first = bank.pair(bank.compact(components(0, 2)), 2, 0, 2, seed=0, step=0)
    assert len(first.independent) == 0
    assert len(first.dependent) == 2
    second = bank.pair(bank.compact(components(10, 2)), 2, 0, 2, seed=0, step=1)
    assert set(second.partners[:, 0, 0].tolist()) <= {0.0, 1.0}
    assert len(second.independent) == 2


@pytest.mark.parametrize("ranks", [2, 4])
def test_workers_shares_are_the_whole(ranks: int) -> None:
    whole, parts = MemoryBank(10, 2, 2), [MemoryBank(10, 2, 2) for _ in range(ranks)]
    count, per_mix = 16, 4
    for step in range(4):
        batch = whole.compact(components(50 * step, count))
        expected = whole.pair(batch, per_mix, 0, count, 7, step)
        share = count // ranks
        got = [bank.pair(batch, per_mix, rank * share, share, 7, step) for rank, bank in enumerate(parts)]
        assert torch.equal(torch.cat([pairs.partners for pairs in got]), expected.partners)
        siblings = torch.cat([pairs.dependent[:, 1] + rank * share for rank, pairs in enumerate(got)])
        assert torch.equal(siblings, expected.dependent[:, 1])
        assert all(torch.equal(bank.slots, whole.slots) for bank in parts)


def test_state_of_the_bank_goes_on() -> None:
    bank, resumed = MemoryBank(10, 2, 2), MemoryBank(10, 2, 2)
    bank.pair(bank.compact(components(0, 8)), 4, 0, 8, 1, 0)
    resumed.load_state_dict(bank.state_dict())
    for step in (1, 2):
        ours, theirs = (b.pair(b.compact(components(100 * step, 8)), 4, 0, 8, 1, step) for b in (bank, resumed))
        assert torch.equal(ours.partners, theirs.partners)
    assert torch.equal(bank.slots, resumed.slots)


def test_huge_magnitudes_stay_finite() -> None:
    bank = MemoryBank(4, 2, 2)
    bank.pair(bank.compact(torch.full((4, 2, 2), 1e6)), 2, 0, 4, 0, 0)
    assert torch.isfinite(bank.slots).all()


def test_what_is_not_finite_is_not_made_finite() -> None:
    assert MemoryBank(4, 1, 2).compact(torch.tensor([[[torch.inf, torch.nan]]])).isnan().all()
