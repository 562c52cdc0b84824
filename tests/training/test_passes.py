"""Compiled passes: without a break in the graph, with the numbers of the plain ones; what is left out is logged."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ialcms.config import Config
from ialcms.engine import Ranks
from ialcms.training import passes
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
    monkeypatch.setattr(passes, "BACKEND", "aot_eager")
    torch.compiler.reset()
    plain = losses(small_config())
    compiled = losses(small_config(train={"compile": True}))
    for expected, got in zip(plain, compiled):
        assert expected.keys() == got.keys()
        for name, value in expected.items():
            assert got[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name


CUDA = {"device": torch.device("cuda")}


@pytest.mark.parametrize(
    ("train", "ranks", "reason"),
    [
        ({"compile": True}, {"distributed": True}, "train.compile is left out: it needs a single rank"),
        ({"cuda_graphs": True}, {}, "train.cuda_graphs is left out: they need a GPU"),
        ({"cuda_graphs": True, "engine": "deepspeed"}, CUDA, "they need train.engine=ddp or a single rank"),
        ({"cuda_graphs": True, "accumulation": 2}, CUDA, "need train.accumulation=1"),
        ({"cuda_graphs": True, "gradient_compression": "bf16"}, CUDA, "need train.gradient_compression=none"),
    ],
)
def test_what_is_left_out_is_told_once(
    caplog: pytest.LogCaptureFixture, train: dict, ranks: dict[str, Any], reason: str
) -> None:
    with caplog.at_level(logging.WARNING, "ialcms"):
        forms = passes.choose_forms(small_config(train=train), group(**ranks))
    assert forms == passes.Forms(compiles=False, records=False)
    (record,) = caplog.records
    assert reason in record.getMessage()


def test_where_they_run() -> None:
    config = small_config(train={"compile": True, "cuda_graphs": True})
    assert passes.choose_forms(config, group(**CUDA)) == passes.Forms(compiles=True, records=True)
    assert passes.choose_forms(config, group(**CUDA, distributed=True)) == passes.Forms(compiles=False, records=True)


def group(**fields: Any) -> Ranks:
    known = {"device": torch.device("cpu"), "distributed": False, "is_first": True, **fields}
    return SimpleNamespace(**known)  # type: ignore[return-value]
