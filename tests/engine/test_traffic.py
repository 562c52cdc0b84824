"""Bytes sent per step: what is computed from sizes is what torch's profiler has seen, kind by kind."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest

from ialcms.engine.traffic import all_gather_bytes, all_reduce_bytes, all_to_all_bytes
from tests.engine.cases.communication import TRAFFIC
from tests.engine.conftest import Launch

pytest.importorskip("deepspeed")
pytestmark = pytest.mark.distributed

_BYTES = {"double": 8, "float": 4, "c10::Half": 2, "c10::BFloat16": 2}
_SENT = {
    "gloo:all_reduce": all_reduce_bytes,
    "gloo:all_gather": all_gather_bytes,
    "all_to_all": lambda num_bytes, world_size: num_bytes,
}


def seen(result: dict[str, Any]) -> Counter[str]:
    """Bytes sent by kind, known by shape: (n, F, T) components, two axes of features, BatchNorm's known sizes."""
    channels = result["batchnorm channels"]
    sent: Counter[str] = Counter()
    for name, shape, kind in result["collectives"]:
        numel = math.prod(shape)
        if kind not in _BYTES or name == "gloo:broadcast":  # flags and norms; DDP arranges its buckets once
            continue
        reduced = name == "gloo:all_reduce"
        sent_by = _SENT[name]
        if reduced and len(shape) == 2:  # gloo makes a reduce-scatter of an all-reduce, NCCL does not
            sent_by = all_to_all_bytes
        num_bytes = sent_by(numel * _BYTES[kind], 2)
        # with AdaIN in one pass a layer reduces the gradient of its slope alone
        sums = {c for c in channels if c > 1} | {2 * c for c in channels} | {2 * sum(channels)}
        # independent layers reduce together: that of a shortcut with the one beside it, the pyramid's five branches
        sums |= {4 * c for c in channels} | {10 * c for c in channels}
        if len(shape) == 3:
            sent["bank"] += num_bytes
        elif len(shape) == 2:
            sent["features"] += num_bytes
        elif reduced and (numel in sums or kind == "double"):
            sent["batchnorm"] += num_bytes
        elif numel > 1:
            sent["gradients" if reduced else "parameters"] += num_bytes
    return sent


@pytest.mark.parametrize("engine", [name for name in TRAFFIC if name != "zero3"])
def test_against_the_profiler(launch: Launch, engine: str) -> None:
    for result in launch("deepspeed"):
        case = result["traffic"][engine]
        computed = Counter(case["computed"])
        assert computed.keys() == {"gradients", "batchnorm", "features", "bank"} | (
            {"parameters"} if engine.startswith(("zero1", "zero2")) else set()
        )
        # ZeRO fills up its vectors so that they divide by the ranks: a few values
        assert computed == pytest.approx(seen(case), rel=1e-3 if engine.startswith("zero") else 1e-9)


def test_zero_3(launch: Launch) -> None:
    """It collects each parameter by itself, some again. Shapes may be those of other kinds, but the sum is known."""
    case = launch("deepspeed")[0]["traffic"]["zero3"]
    computed, profiled = Counter(case["computed"]), seen(case)
    assert computed["gradients"] == pytest.approx(profiled["gradients"], rel=1e-2)
    assert computed["bank"] == profiled["bank"]
    gathered = [profiled[kind] for kind in ("parameters", "batchnorm")]
    expected = [computed[kind] for kind in ("parameters", "batchnorm")]
    assert 0.95 * sum(expected) < sum(gathered) < 1.5 * sum(expected)


def test_accumulation_and_compression(launch: Launch) -> None:
    """Micro-batches cost no reduction of their own (no_sync), 16 bits halve it."""
    sent = {name: seen(case)["gradients"] for name, case in launch("deepspeed")[0]["traffic"].items()}
    assert sent["ddp accumulated"] == sent["ddp"]
    assert 2 * sent["ddp in 16 bits"] == sent["ddp"]
