"""On GPUs the ranks agree one step late, so that nothing waits in a step: here the same on CPUs."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from ialcms.engine import Ranks
from ialcms.engine.late_flags import LateFlags
from ialcms.training.step import Experiment
from tests.support import make_batch, small_config, torchrun, write_small_config
from tests.support.states import clone, tensors

LATE = """
import itertools, os, sys
from ialcms import cli
from ialcms.launched import end_process
from ialcms.engine import Ranks
from ialcms.training.stop_request import StopRequest

Ranks.reads_late = True
calls, stop_at, is_second = itertools.count(1), int(sys.argv[1]), os.environ["RANK"] == "1"
StopRequest.requested = property(lambda self: next(calls) == stop_at and is_second)
end_process(cli.main(sys.argv[2:]))
"""


def final_state(folder: Path, step: int) -> dict[str, torch.Tensor]:
    state = torch.load(folder / "checkpoints" / f"step-{step:08d}" / "state.pt", weights_only=True)
    return dict(tensors(state))


@pytest.mark.distributed
def test_a_stop_that_is_known_one_step_later_changes_nothing(demo_shards: Path, tmp_path: Path) -> None:
    config = write_small_config(tmp_path / "small.yaml", demo_shards, steps=6, validate_every=6, checkpoint_every=100)
    program = tmp_path / "late.py"
    program.write_text(LATE)

    def train(name: str, stop_at: int) -> str:
        arguments = ["train", str(config), "--folder", str(tmp_path / name)]
        done = torchrun(2, str(program), str(stop_at), *arguments)
        assert done.returncode == 0, done.stderr
        return done.stderr

    assert "finished after step 6" in train("at once", 0)
    assert "stopped on request after step 4" in train("stopped", 3)  # asked for after step 3
    assert "resumes from step 4" in train("stopped", 0)
    at_once, stopped = (final_state(tmp_path / name, 6) for name in ("at once", "stopped"))
    assert at_once.keys() == stopped.keys()
    assert [name for name in at_once if not torch.equal(at_once[name], stopped[name])] == []


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ranks, "reads_late", True)


@pytest.mark.usefixtures("late")
def test_a_skipped_step_is_told_when_the_next_begins() -> None:
    config = small_config(train={"max_skipped_steps": 1, "separator_every": 2})
    with Ranks() as ranks:
        experiment = Experiment(config, ranks)
        experiment.step(make_batch(config, 0))
        before = clone(experiment.state_dict())
        bad = make_batch(config, 2)
        bad.mix[1, 100] = math.nan
        scalars = experiment.step(bad)
        assert scalars
        assert experiment.skipped.count == 0
        other = experiment.step(make_batch(config, 3))
        assert (scalars, experiment.skipped.count) == ({}, 1)
        assert other

        # what the bad step left is what was there before
        reference = Experiment(config, ranks)
        reference.load_state_dict(before)
        reference.step(make_batch(config, 3))
        ours, expected = (dict(tensors(clone(e.state_dict()))) for e in (experiment, reference))
        assert [name for name in expected if not torch.equal(ours[name], expected[name])] == []

        experiment.step(bad)
        with pytest.raises(ValueError, match="skipped step 2 and train"):
            experiment.state_dict()  # a checkpoint is not written over it


class ThreeGpus:
    """Of three ranks, of which the others raise no flag."""

    world_size, reads_late, device = 3, True, torch.device("cpu")

    def largest(self, values: torch.Tensor) -> torch.Tensor:
        return values


def test_each_flag_is_told_once() -> None:
    flags = LateFlags(ThreeGpus())  # type: ignore[arg-type]
    assert flags.exchange(True, False) == [False, False]
    assert flags.exchange(False, True) == [True, False]
    assert flags.settle(2) == [False, True]
    assert flags.settle(2) == [False, False]
    assert flags.exchange(False, False) == [False, False]
