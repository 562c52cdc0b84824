"""Detectors' weights in the forms that other programs save them in: taken, and what was stripped is said."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shards.detector import build_detector, load_detector, load_init

CLASSES = ("violin", "tuba")


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return build_detector("small", CLASSES).model.state_dict()


def prefixed(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda state: dict(state), "small, 2 classes"),
        (lambda state: prefixed(state, "module."), "stripped 'module.' from its names"),
        (lambda state: {"model": state, "args": argparse.Namespace(lr=0.1), "epoch": 3}, "took 'model'"),
        (
            lambda state: {
                "state_dict": prefixed(state, "detector._orig_mod."),
                "hyper_parameters": {"lr": np.float64(0.1)},
            },
            "took 'state_dict'; stripped '_orig_mod.' from its names; took 'detector.*'",
        ),
    ],
)
def test_forms(make: Callable[[dict], Any], said: str, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "detector.pt"
    torch.save(make(state), path)
    detector = load_detector(path, "small", CLASSES)
    assert detector.description.endswith(said)
    for name, value in detector.model.state_dict().items():
        assert torch.equal(value, state[name]), name
    other = build_detector("small", CLASSES)
    assert load_init(other, path) == len(state)


def test_what_holds_none(tmp_path: Path) -> None:
    for content in ({"state_dict": {"a": 1}}, {}, [1]):
        torch.save(content, tmp_path / "x.pt")
        with pytest.raises(ValueError, match="holds no weights by name"):
            load_detector(tmp_path / "x.pt", "small", CLASSES)
