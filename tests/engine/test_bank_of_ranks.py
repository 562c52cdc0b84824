"""The memory bank spread over ranks is that of one rank: real processes, gloo."""

from __future__ import annotations

import pytest
import torch

from ialcms.engine import Ranks
from tests.engine.cases.bank import BANKS, bank_steps
from tests.engine.conftest import Launch

pytestmark = pytest.mark.distributed


@pytest.mark.parametrize("name", BANKS)
@pytest.mark.parametrize("world", ["2 ranks", "3 ranks", "4 ranks"])
def test_any_number_of_ranks_has_the_same_pairs_and_bank(launch: Launch, world: str, name: str) -> None:
    """To the bit, over steps in which the bank fills and goes round, a skipped one, and a change of the ranks."""
    results = [result["bank_of_ranks"][name] for result in launch(world)]
    alone = bank_steps(Ranks(), name)
    assert alone["steps"][-1]["partners"].unique().numel() > 4
    for step, expected in enumerate(alone["steps"]):
        for part in ("partners", "dependent"):
            joined = torch.cat([result["steps"][step][part] for result in results])
            assert torch.equal(joined, expected[part]), (step, part)
    for stage in ("middle", "end"):
        for part, value in alone[stage].items():
            assert torch.equal(results[0][stage][part], value), (stage, part)
        assert all("slots" not in result[stage] for result in results[1:])


def test_a_rank_receives_its_partners_alone(launch: Launch) -> None:
    """Bytes that all ranks send, over all steps: partners that lie elsewhere, of 2 x 2 cells in 16 bits."""
    results = [result["bank_of_ranks"]["goes round"] for result in launch("4 ranks")]
    num_partners = sum(len(step["partners"]) for result in results for step in result["steps"])
    sent = sum(result["sent"] for result in results)
    assert 0.5 * num_partners * 8 < sent < num_partners * 8
