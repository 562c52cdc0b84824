"""States that are saved, shared and taken over, by all engines."""

from __future__ import annotations

import io
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch

from ialcms.engine import Ranks, state_from_first
from ialcms.training.step import Experiment
from tests.engine.cases.steps import ENGINES, run_steps, tiny_config
from tests.support.states import clone


def resume(ranks: Ranks) -> dict[str, Any]:
    """Per engine, the state after 7 steps at once, after 4 and 3, and after 3 with ddp that resume from its 4."""
    results: dict[str, Any] = {}
    for name, engine in ENGINES.items():
        config = tiny_config(ranks, ema_decay=0.9, **engine)
        at_once = Experiment(config, ranks)
        run_steps(at_once, range(4))
        middle = through_file(ranks, at_once.state_dict())
        run_steps(at_once, range(4, 7))
        resumed = Experiment(config, ranks)
        resumed.load_state_dict(middle)
        run_steps(resumed, range(4, 7))
        changed = Experiment(tiny_config(ranks, ema_decay=0.9), ranks)
        changed.load_state_dict(middle)
        run_steps(changed, range(4, 7))
        experiments = {"middle": None, "at once": at_once, "resumed": resumed, "resumed with ddp": changed}
        results[name] = {case: clone(e.state_dict()) if e is not None else middle for case, e in experiments.items()}
    return results


def shared_state(ranks: Ranks) -> dict[str, Any]:
    """What the ranks get of a state of rank 0, in blocks so small that tensors are cut; and of one that it refuses."""
    states = {size: state_from_first(ranks, lambda: made_on(ranks, unusual_state), size) for size in (7, 4096)}
    refusals = []
    for refused in (_refuse, lambda: {"rows": torch.eye(3).to_sparse()}):
        try:
            state_from_first(ranks, lambda action=refused: made_on(ranks, action))  # type: ignore[misc]
        except ValueError as error:
            refusals.append(str(error))
    first = states[7]
    assert first["names"]._metadata == {"version": 2}
    assert first["twice"] is first["names"]["weight"]
    strides = {name: first[name].stride() for name in ("pictures", "columns")}
    return {"small blocks": first, "large blocks": states[4096], "strides": strides, "refusals": refusals}


def made_on(ranks: Ranks, action: Callable[[], Any]) -> Any:
    """What `action` makes; only rank 0 may ask."""
    assert ranks.is_first
    return action()


def unusual_state() -> dict[str, Any]:
    """Types, shapes and strides that a checkpoint may have."""
    generator = torch.Generator().manual_seed(5)
    names = OrderedDict(weight=torch.randn(3, 5, generator=generator, dtype=torch.float64))
    names._metadata = {"version": 2}  # type: ignore[attr-defined]
    pictures = torch.randn(2, 3, 4, 5, generator=generator)
    return {
        "names": names,
        "twice": names["weight"],
        "pictures": pictures.to(memory_format=torch.channels_last),
        "columns": pictures.half()[..., 1:3],
        "expanded": torch.tensor(2.5).expand(3, 2),
        "nan": torch.tensor([math.nan, -0.0, math.inf]).bfloat16(),
        "flags": [torch.tensor([True, False]), (torch.tensor(7), "text", None, 1.5)],
        "empty": torch.empty(0, 4),
        "many": torch.arange(3_000, dtype=torch.int16),
    }


def _refuse() -> Any:
    raise ValueError("no such checkpoint; give another one")


def through_file(ranks: Ranks, state: Any) -> Any:
    """What all ranks read of a state that the first one writes, like a checkpoint."""
    file = io.BytesIO()
    torch.save(state, file)
    return torch.load(io.BytesIO(ranks.broadcast(file.getvalue())), weights_only=True)
