"""All options of the training that are off by default: the same networks and averages on 1 and 2 ranks, by any engine.

Resuming them to the bit is in test_deepspeed.py (all engines) and tests/training/test_averaging.py.
"""

from __future__ import annotations

import pytest
import torch

from ialcms.runs.checkpoint import AVERAGE
from tests.engine.compare import Run, largest_difference
from tests.engine.conftest import OPTIONS_DOUBLE, OPTIONS_SINGLE, Launch, zero_with_options
from tests.engine.test_world_sizes import (
    WAY,
    assert_equal_in_double_precision,
    assert_equal_in_single_precision,
)
from tests.support.states import tensors

pytestmark = pytest.mark.distributed


def average_difference(ours: Run, reference: Run) -> float:
    """The largest distance of a parameter's averages, in units of the way that the average went."""
    states = [dict(tensors(state)) for state in (ours["state"][AVERAGE], reference["state"][AVERAGE])]
    start = dict(tensors({"module": reference["start"]["separator"]["module"]}))
    names = [name for name in start if name.endswith(".weight")]
    apart = torch.stack([(states[0][name] - states[1][name]).square().sum() for name in names]).sum().sqrt()
    way = torch.stack([(states[1][name] - start[name]).square().sum() for name in names]).sum().sqrt()
    return float(apart / way)


def test_two_ranks_in_double_precision(launch: Launch, alone: dict[str, Run]) -> None:
    ours, reference = launch("2 ranks")[0][OPTIONS_DOUBLE], alone[OPTIONS_DOUBLE]
    assert {"loss/spectral", "loss/separation"} < ours["losses"][0].keys()
    assert_equal_in_double_precision(ours, reference)  # of the averages too
    live, average = (dict(tensors(ours["state"][part])) for part in ("separator", AVERAGE))
    moved = "module.decoder.blocks.0.conv.weight"
    assert largest_difference(average[moved], live[moved]) > 1e-5  # an average is not the network of the last step


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeed(launch: Launch, alone: dict[str, Run], stage: int) -> None:
    pytest.importorskip("deepspeed")
    ours, reference = launch("deepspeed")[0][zero_with_options(stage)], alone[OPTIONS_SINGLE]
    assert_equal_in_single_precision(ours, reference)
    assert average_difference(ours, reference) < WAY
