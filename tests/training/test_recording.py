"""Recorded steps: a recording that is repeated computes what the steps themselves would have."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ialcms.config import Config
from ialcms.engine import Ranks
from ialcms.engine.traffic import Traffic
from ialcms.training import step as training_step
from ialcms.training.recording import StepRecordings
from ialcms.training.schedule import step_schedule
from ialcms.training.step import Experiment
from tests.golden.precision import double_precision
from tests.support import make_batch, small_config
from tests.support.states import clone, tensors
from tests.training.tape import tape

STEPS = 20
CONFIGS = {
    "published": {},
    "ramps, warm-up, average, dropout, clipping": {
        "loss": {"lambda_ind_steps": [3, 10], "lambda_avc_steps": [11, 14]},
        "optim": {"warmup_steps": 4, "cosine_steps": 19, "clip_norm": 0.5, "critic_weight_decay": 0.01},
        "train": {"ema_decay": 0.9, "separator_every": 3},
    },
    "each network at its own steps": {
        "train": {"separator_every": 2, "critic_every": 3},
        "optim": {"cosine_steps": 19},
    },
    "no critic": {"loss": {"lambda_ind": 0.0, "lambda_ind_steps": []}, "train": {"separator_every": 1}},
    "spectral loss, several pictures": {
        "loss": {"spectral_weight": 0.1, "spectral_windows": [256, 512]},
        "data": {"pictures_per_object": 2},
    },
}


def run(config: Config, recorded: bool, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], list[dict]]:
    """The state after some steps, and the terms of each."""
    calls: list[str] = []
    with double_precision(), Ranks() as ranks, monkeypatch.context() as patch:
        if recorded:
            steps = StepRecordings(lambda function: (calls.append("recorded"), tape(function))[1], ranks)
            patch.setattr(training_step, "recordings", lambda forms, ranks: steps)
        experiment = Experiment(config, ranks)
        scalars = []
        for step in range(STEPS):
            scalars.append(experiment.step(make_batch(config, step)))
            if step == 12:  # a validation leaves it so
                experiment.separator.module.eval()
        schedule = [step_schedule(step, config) for step in range(STEPS)]
        kinds = {(now.train_separator, now.train_critic) for now in schedule} - {(False, False)}
        assert len(calls) == (2 * len(kinds) if recorded else 0)  # each once, in two sections
        return clone(experiment.state_dict()), scalars


@pytest.mark.parametrize("name", CONFIGS)
def test_recorded_steps_compute_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config(**CONFIGS[name])
    expected, terms = run(config, False, monkeypatch)
    got, recorded_terms = run(config, True, monkeypatch)
    for step, (plain, recorded) in enumerate(zip(terms, recorded_terms, strict=True)):
        assert plain.keys() == recorded.keys()
        for term, value in plain.items():
            assert float(recorded[term]) == pytest.approx(float(value), rel=1e-6, abs=1e-9), (step, term)
        now = step_schedule(step, config)  # the weights of that step, not of the one that was recorded
        for loss, weight in (("independence", now.lambda_ind), ("consistency", now.lambda_avc)):
            if f"loss/{loss}" in recorded:
                weighted = weight * float(recorded[f"loss/{loss}"])
                assert float(recorded[f"weighted_loss/{loss}"]) == pytest.approx(weighted, rel=1e-6)
    other = dict(tensors(got))
    for key, tensor in tensors(expected):
        torch.testing.assert_close(other[key], tensor, rtol=1e-5, atol=1e-8, msg=lambda text, key=key: f"{key}: {text}")


def test_a_number_that_is_no_input_stays_as_it_was_recorded() -> None:
    """What the test above rests on."""
    numbers, x, total = [1.0], torch.ones(3), torch.zeros(3)
    result, repeat = tape(lambda: total.add_(x * numbers[0]))
    for number, given, expected in ((2.0, 1.0, 1.0), (3.0, 5.0, 6.0), (4.0, 7.0, 13.0)):
        numbers[0] = number
        x.fill_(given)
        repeat()
        assert result.tolist() == [expected] * 3


@pytest.mark.parametrize(("is_distributed", "first_steps"), [(False, 2), (True, 11)])
def test_each_kind_is_called_at_first_then_recorded_then_repeated(is_distributed: bool, first_steps: int) -> None:
    traffic = Traffic(2)
    ranks = SimpleNamespace(distributed=is_distributed, traffic=traffic)
    steps = StepRecordings(tape, ranks)  # type: ignore[arg-type]
    calls: list[str] = []

    def double(kind: str, x: torch.Tensor) -> torch.Tensor:
        calls.append(kind)
        traffic.all_reduce("gradients", 100)
        return 2 * x

    for number in range(first_steps + 4):
        for kind in ("both learn", "critic only"):
            step = steps.begin(kind)
            result = step.run("part", lambda x, kind=kind: double(kind, x), torch.tensor(float(number)))
            assert float(result) == 2 * number
            assert traffic.take() == {"gradients": 100.0}  # a repeated part sends what it sent
    assert calls == ["both learn", "critic only"] * (first_steps + 1)


def test_recordings_end_before_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL waits for the end of every graph that it is in, also after an error."""
    ended: list[str] = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: ended.append("group"))

    def fail() -> None:
        with Ranks() as ranks:
            ranks.before_end(lambda: ended.append("graphs"))
            raise ValueError("too many skipped steps")

    with pytest.raises(ValueError, match="too many"):
        fail()
    assert ended == ["graphs", "group"]
