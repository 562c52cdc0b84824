"""The memory bank of several ranks."""

from __future__ import annotations

import math
from typing import Any

import torch

from ialcms.engine import Ranks
from ialcms.training.memory_bank import MemoryBank
from tests.engine.cases.resuming import through_file
from tests.support.states import clone

# Memory banks by name: slots, components a mix; of 12 mixes a batch.
BANKS = {"goes round": (60, 2), "smaller than a batch": (10, 2), "smaller than a rank's share": (3, 1)}


def bank_of_ranks(ranks: Ranks) -> dict[str, Any]:
    return {name: bank_steps(ranks, name) for name in BANKS}


def bank_steps(ranks: Ranks, name: str) -> dict[str, Any]:
    """This rank's pairs of 8 steps, the fifth of which is skipped; before the fourth a new bank takes over the state.

    The state is in the layout of one rank, whatever the number of ranks.
    """
    capacity, per_mix = BANKS[name]
    settings: dict[str, Any] = {"num_mixes": 12, "per_mix": per_mix, "seed": 5, "ranks": ranks}
    bank = MemoryBank(capacity, (2, 2), **settings)
    count = 12 * per_mix // ranks.world_size
    ranks.traffic.take()
    steps = []
    for step in range(8):
        if step == 3:
            middle = through_file(ranks, bank.state_dict())
            bank = MemoryBank(capacity, (2, 2), **settings)
            bank.load_state_dict(middle)
        first = 100 * step + ranks.rank * count
        components = torch.arange(first, first + count, dtype=torch.float32, device=ranks.device)
        check = torch.tensor(math.nan if step == 4 else 0.0, device=ranks.device)
        pairs = bank.pair(bank.compact(components.view(-1, 1, 1).expand(-1, 2, 2)), step, check)
        dependent = pairs.dependent + ranks.rank * count
        steps.append(clone({"partners": pairs.partners, "dependent": dependent}))
    if not ranks.is_first:
        middle.pop("slots")
    sent = ranks.traffic.take().get("bank", 0.0)
    return {"steps": steps, "middle": middle, "end": clone(bank.state_dict()), "sent": sent}
