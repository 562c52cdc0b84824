"""What ranks send each other."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.profiler import ProfilerActivity, profile

from ialcms.engine import Ranks
from ialcms.training.step import Experiment
from tests.engine.cases.steps import ENGINES, run_steps, tiny_config

TRAFFIC = {
    "ddp": {},
    "ddp in 16 bits": {"gradient_compression": "bf16"},
    "ddp accumulated": {"accumulation": 2, "global_batch": 4},
    "ddp with local statistics": {"sync_batchnorm": False},
    **{f"zero{stage}": ENGINES[f"zero{stage}"] for stage in range(4)},
    "zero2 accumulated": {"accumulation": 2, "global_batch": 4, **ENGINES["zero2"]},
}


def traffic(ranks: Ranks) -> dict[str, Any]:
    """Per engine, what a step in which both networks learn sends: as computed, and as torch's profiler sees it."""
    results: dict[str, Any] = {}
    for name, train in TRAFFIC.items():
        experiment = Experiment(tiny_config(ranks, **train), ranks)
        run_steps(experiment, range(3))
        results[name] = {
            **profiled_step(experiment, ranks),
            "batchnorm channels": trained_batchnorm(experiment.separator.module),
        }
    return results


def profiled_step(experiment: Experiment, ranks: Ranks) -> dict[str, Any]:
    """What a step sends, as computed and as profiled.

    A profile from which a collective is missing, on any rank, is taken again at the next step of the same kind.
    """
    for step in range(3, 33, 3):
        ranks.traffic.take()
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
            run_steps(experiment, range(step, step + 1))
        computed, profiled = ranks.traffic.take(), collectives(profiler, ranks)
        if not ranks.any(profiled is None):
            return {"computed": computed, "collectives": profiled}
    raise AssertionError("ten profiles in a row lack a collective")


def trained_batchnorm(module: nn.Module) -> list[int]:
    """Channels of each BatchNorm layer that learns."""
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
    return [layer.num_features for layer in layers if layer.weight.requires_grad]


def collectives(profiler: profile, ranks: Ranks) -> list[tuple[str, list[int], str]] | None:
    """Name, shape and type of what this rank has handed to gloo; None if some of that is missing.

    Of an all-to-all, the shape of what goes to other ranks.

    gloo's threads end an event a moment after whoever waits for the collective. An event that has not ended when the
    profiler stops has no arguments, or is left out. Torch's own events of the same collectives, "c10d::...", end in the
    thread that starts them: they tell how many there must be.
    """
    with tempfile.TemporaryDirectory() as folder:
        profiler.export_chrome_trace(f"{folder}/trace.json")
        events = json.loads(Path(folder, "trace.json").read_text())["traceEvents"]
    started = [event for event in events if event.get("name", "").startswith("c10d::")]
    ended = [event for event in events if event.get("name", "").startswith("gloo:") and "Input Dims" in event["args"]]
    assert len(ended) <= len(started)
    if len(ended) < len(started):
        return None
    handed = [
        (event["name"], event["args"]["Input Dims"][0], event["args"]["Input type"][0])
        for event in ended
        if event["name"] != "gloo:all_to_all"
    ]
    return handed + [_sent_to_others(event["args"], ranks) for event in started if "alltoall" in event["name"]]


def _sent_to_others(arguments: dict[str, Any], ranks: Ranks) -> tuple[str, list[int], str]:
    """Of an all-to-all; its arguments begin with output, input, group, and rows from and to each rank."""
    rows, *shape = arguments["Input Dims"][1]
    num_sent = json.loads(arguments["Concrete Inputs"][4]) or [rows // ranks.world_size] * ranks.world_size
    assert sum(num_sent) == rows
    return "all_to_all", [rows - num_sent[ranks.rank], *shape], arguments["Input type"][1]


def gather(ranks: Ranks) -> Tensor:
    """The rows of all ranks, gathered from each one's two."""
    local = gather_rows(ranks.world_size)[2 * ranks.rank : 2 * ranks.rank + 2]
    return ranks.gather(local.to(ranks.device)).cpu()


def gather_rows(world_size: int) -> Tensor:
    """Two rows a rank."""
    return torch.randn(2 * world_size, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
