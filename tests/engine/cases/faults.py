"""Numbers that are not finite, and ranks that differ."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from ialcms.config import shared_fields
from ialcms.engine import Ranks, check_same_fields
from ialcms.training.step import Experiment
from tests.engine.cases.steps import ENGINES, local_lanes, run_steps, tiny_config
from tests.support import make_batch
from tests.support.states import clone


def not_finite(ranks: Ranks) -> dict[str, Any]:
    """Per engine: rank 1 sees NaN at step 3, at which both networks learn, and gets an infinite gradient at step 6.

    One step is skipped, the second is too many.
    """
    results: dict[str, Any] = {}
    for name, engine in ENGINES.items():
        config = tiny_config(ranks, max_skipped_steps=1, **engine)
        experiment = Experiment(config, ranks)
        run_steps(experiment, range(3))
        before = clone(experiment.state_dict())
        batch = make_batch(config, 3, local_lanes(config, ranks))
        if ranks.rank == 1:
            batch.mix[0, 100] = math.nan
        with capture_log() as lines:
            scalars = experiment.step(batch.to(ranks.device))
            experiment.settle()
        after = clone(experiment.state_dict())
        run_steps(experiment, range(4, 6))
        learned = clone(experiment.state_dict())
        parameter = experiment.separator.module.mask_bias
        handle = parameter.register_hook(lambda gradient: gradient * math.inf) if ranks.rank == 1 else None
        try:
            run_steps(experiment, range(6, 7))
            experiment.settle()
            error = "none"
        except ValueError as fault:
            error = str(fault)
        if handle is not None:
            handle.remove()
        results[name] = {
            "log": lines, "scalars": clone(scalars), "before": before, "after": after, "learned": learned,
            "end": clone(experiment.state_dict()), "error": error,
        }  # fmt: skip
    return results


@contextmanager
def capture_log() -> Iterator[list[str]]:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("ialcms")
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)


def disagreement(ranks: Ranks) -> dict[str, str]:
    """What is said when a rank has another last bit of a weight, another step, configuration or free field."""
    messages = {}
    for what in ("nothing", "weight", "step", "configuration"):
        other = ranks.rank == 1
        config = tiny_config(ranks, check_every=2)
        if what == "configuration" and other:
            config = replace(config, seed=1)
        experiment = Experiment(replace(config, seed=0) if what != "configuration" else config, ranks)
        try:
            run_steps(experiment, range(2))
            if what == "weight" and other:
                weight = experiment.separator.module.get_parameter("encoder.stem.0.weight").data.view(-1)
                weight[3] = torch.nextafter(weight[3], torch.tensor(2.0))
            run_steps(experiment, range(4, 5) if what == "step" and other else range(2, 3))
            messages[what] = "no fault found"
        except ValueError as error:
            messages[what] = str(error)
    config = tiny_config(ranks, validate_every=9 + ranks.rank, deepspeed_config=f"rank{ranks.rank}.json")
    try:
        check_same_fields(ranks, shared_fields(config))
        messages["field"] = "no fault found"
    except ValueError as error:
        messages["field"] = str(error)
    return messages
