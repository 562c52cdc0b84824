"""--init-from with our weights in the forms that they reach people in."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ialcms.engine import Ranks
from ialcms.published import to_published
from ialcms.training.init_from import init_from
from ialcms.training.step import Experiment
from tests.support import small_config


def prefixed(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {prefix + name: value for name, value in state.items()}


def published(experiment: Experiment) -> dict[str, Any]:
    assert experiment.critic is not None
    return to_published(experiment.separator.module, experiment.critic.module, checkpoint=True)


def bare(experiment: Experiment) -> dict[str, Any]:
    return to_published(experiment.separator.module, None)


def state_of(experiment: Experiment) -> dict[str, Any]:
    return experiment.separator.module.state_dict()


OPTIONS = argparse.Namespace(lr=np.float64(1e-4), steps=np.int64(3))
FORMS: dict[str, tuple[Callable[[Experiment], Any], str, bool]] = {  # the last: with the critic
    "authors'": (lambda e: {"state_dict": published(e), "hyper_parameters": OPTIONS}, "took 'state_dict'", True),
    "compiled": (lambda e: {"net": prefixed(published(e), "_orig_mod.module.")}, "stripped '_orig_mod.'", True),
    "in a larger network": (
        lambda e: {"state_dict": prefixed(published(e), "task.") | {"task.loss.c": torch.ones(1)}},
        "stripped 'task.net_wrapper.av_separator.' from the separator's names",
        True,
    ),
    "separator alone": (lambda e: prefixed(bare(e), "net."), "stripped 'net.' from the separator's names", False),
    "our names": (lambda e: {"model": prefixed(state_of(e), "module.")}, "took 'model'; stripped 'module.'", False),
    "an export": (lambda e: {"format": "ialcms-separator", "separator": state_of(e)}, "separator of ", False),
    "state.pt": (lambda e: e.state_dict(), "networks of ", True),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(form: str, tmp_path: Path) -> None:
    make, said, with_critic = FORMS[form]
    with Ranks() as ranks:
        source = Experiment(small_config(seed=1), ranks)
        target = Experiment(small_config(seed=2), ranks)
        torch.save(make(source), tmp_path / "weights.pt")
        assert said in init_from(target, tmp_path / "weights.pt")
        pairs = [(source.separator, target.separator)]
        if with_critic:
            assert source.critic is not None
            assert target.critic is not None
            pairs.append((source.critic, target.critic))  # type: ignore[arg-type]
        for one, other in pairs:
            for name, value in one.module.state_dict().items():
                assert torch.equal(value, other.module.state_dict()[name]), name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda e: {"separator": {"module": {"a": 1}}}, "do not fit this configuration|holds no state_dict"),
        (lambda e: {"separator": {"module": {**state_of(e), "mask_scale": 1.5}}}, "do not fit this configuration"),
        (lambda e: {"state_dict": {"a": torch.ones(1)}}, "do not fit this configuration: 0 tensors matched"),
        (lambda e: [torch.ones(1)], "holds no state_dict of tensors"),
    ],
)
def test_what_does_not_fit(make: Callable[[Experiment], Any], message: str, tmp_path: Path) -> None:
    with Ranks() as ranks:
        experiment = Experiment(small_config(), ranks)
        torch.save(make(experiment), tmp_path / "weights.pt")
        with pytest.raises(ValueError, match=message) as raised:
            init_from(experiment, tmp_path / "weights.pt")
    assert "\n" not in str(raised.value)
