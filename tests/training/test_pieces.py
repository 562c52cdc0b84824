"""Compiled passes: without a break in the graph, with the numbers of the plain ones; what is left out is logged."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ialcms.config import Config
from ialcms.engine import Ranks
from ialcms.training import pieces
from ialcms.training.step import Experiment
from tests.support import make_batch, small_config


def losses(config: Config) -> list[dict[str, float]]:
    with Ranks() as ranks:
        experiment = Experiment(config, ranks)
        scalars = [experiment.step(make_batch(config, step)) for step in range(3)]
    return [{name: float(value) for name, value in step.items()} for step in scalars]


@pytest.mark.slow
def test_compiled_passes_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced whole, forward and backward; the code generator is left out, it takes a minute."""
    monkeypatch.setattr(pieces, "BACKEND", "aot_eager")
    torch.compiler.reset()
    plain = losses(small_config())
    compiled = losses(small_config(train={"compile": True}))
    for expected, got in zip(plain, compiled):
        assert expected.keys() == got.keys()
        for name, value in expected.items():
            assert got[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name


@pytest.mark.parametrize(
    ("train", "ranks", "reason"),
    [
        ({"compile": True}, {"distributed": True}, "train.compile is left out: it needs a single rank"),
        ({"cuda_graphs": True}, {"distributed": True}, "train.cuda_graphs is left out: they need a single rank"),
        ({"cuda_graphs": True}, {}, "train.cuda_graphs is left out: they need a GPU"),
        ({"cuda_graphs": True, "accumulation": 2}, {"device": torch.device("cuda")}, "need train.accumulation=1"),
    ],
)
def test_what_is_left_out_is_told_once(
    caplog: pytest.LogCaptureFixture, train: dict, ranks: dict[str, Any], reason: str
) -> None:
    group = SimpleNamespace(**{"device": torch.device("cpu"), "distributed": False, "is_first": True, **ranks})
    with caplog.at_level(logging.WARNING, "ialcms"):
        assert pieces._supported(small_config(train=train), group) == (False, False)  # type: ignore[arg-type]
    (record,) = caplog.records
    assert reason in record.getMessage()


def test_where_they_run() -> None:
    alone = SimpleNamespace(device=torch.device("cuda"), distributed=False, is_first=True)
    config = small_config(train={"compile": True, "cuda_graphs": True})
    assert pieces._supported(config, alone) == (True, True)  # type: ignore[arg-type]
