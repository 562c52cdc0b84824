"""The moving average of the separator's weights: closed forms, skipped steps, saved and resumed to the bit."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from ialcms.config import Config
from ialcms.engine import Ranks
from ialcms.models import Separator
from ialcms.runs.checkpoint import AVERAGE
from ialcms.training.averaging import AveragedSeparator, decay_at
from ialcms.training.schedule import step_schedule
from ialcms.training.step import Experiment
from tests.support import make_batch, small_config

ALL_OPTIONS: dict[str, dict[str, Any]] = {
    "train": {"ema_decay": 0.9, "separator_every": 2},
    "optim": {"warmup_steps": 3, "cosine_steps": 12, "lr_floor": 0.1, "clip_norm": 0.5},
    "loss": {"spectral_weight": 0.1, "spectral_windows": [256, 512]},
    "data": {"pictures_per_object": 2},
}
KEPT, SKIPPED = torch.tensor(False), torch.tensor(True)


def separator() -> Separator:
    config = small_config()
    torch.manual_seed(0)
    return Separator(config.model, config.audio)


def shift(module: Separator, by: float) -> None:
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.is_floating_point():
                tensor.add_(by)


def test_the_decay_grows_to_what_is_configured() -> None:
    assert decay_at(0, 0.999) == 0.1
    assert decay_at(9, 0.999) == pytest.approx(10 / 19)
    assert decay_at(10**6, 0.999) == 0.999
    assert decay_at(0, 0.05) == 0.05


def test_the_average_moves_where_the_separator_learns() -> None:
    config = small_config(train={"ema_decay": 0.5, "separator_every": 3})
    assert [step_schedule(step, config).ema_decay for step in range(5)] == [
        0.1,
        None,
        None,
        pytest.approx(2 / 11),
        None,
    ]
    assert step_schedule(300, config).ema_decay == 0.5
    assert step_schedule(0, small_config()).ema_decay is None


def test_the_average_of_constant_weights_is_those_weights() -> None:
    live = separator()
    average = AveragedSeparator(live)
    for _ in range(20):
        average.update(live, 0.9, KEPT)
    for name, tensor in live.state_dict().items():
        assert torch.equal(average.module.state_dict()[name], tensor), name


def test_a_jump_is_followed_geometrically() -> None:
    live = separator()
    average = AveragedSeparator(live)
    before = live.mask_bias.item()
    shift(live, 1.0)
    live.input_norm.num_batches_tracked += 7
    for updates in range(1, 6):
        average.update(live, 0.75, KEPT)
        assert average.module.mask_bias.item() == pytest.approx(before + 1 - 0.75**updates, abs=1e-6)
        assert average.module.input_norm.running_mean.item() == pytest.approx(1 - 0.75**updates, abs=1e-6)
    assert int(average.module.input_norm.num_batches_tracked) == 7
    assert not average.module.training


def test_a_skipped_step_leaves_no_trace() -> None:
    live = separator()
    average = AveragedSeparator(live)
    before = copy.deepcopy(average.state_dict()["module"])
    shift(live, 1.0)
    average.update(live, 0.5, SKIPPED)
    assert all(torch.equal(before[name], tensor) for name, tensor in average.state_dict()["module"].items())


def run(config: Config, ranks: Ranks, steps: range, state: dict[str, Any] | None = None) -> Experiment:
    experiment = Experiment(config, ranks)
    if state is not None:
        experiment.load_state_dict(copy.deepcopy(state))
    for step in steps:
        experiment.step(make_batch(config, step))
    return experiment


def test_all_options_resume_to_the_bit() -> None:
    config = small_config(**ALL_OPTIONS)
    with Ranks() as ranks:
        at_once = run(config, ranks, range(8)).state_dict()
        middle = run(config, ranks, range(5)).state_dict()
        resumed = run(config, ranks, range(5, 8), middle).state_dict()
    for part in ("separator", AVERAGE, "critic"):
        expected = at_once[part]["module"]
        assert all(torch.equal(tensor, resumed[part]["module"][name]) for name, tensor in expected.items()), part
    live, average = at_once["separator"]["module"], at_once[AVERAGE]["module"]
    assert not torch.equal(live["mask_bias"], average["mask_bias"])


def test_the_average_changes_nothing_of_the_training() -> None:
    with Ranks() as ranks:
        plain = run(small_config(), ranks, range(3)).state_dict()
        averaged = run(small_config(train={"ema_decay": 0.9}), ranks, range(3)).state_dict()
    assert AVERAGE not in plain
    for name, tensor in plain["separator"]["module"].items():
        assert torch.equal(tensor, averaged["separator"]["module"][name]), name


def test_a_state_without_an_average_begins_one_at_its_weights() -> None:
    config = small_config(train={"ema_decay": 0.9, "separator_every": 1})
    with Ranks() as ranks:
        state = run(small_config(train={"separator_every": 1}), ranks, range(2)).state_dict()
        experiment = run(config, ranks, range(0), state)
        assert experiment.average is None
        assert experiment.separator_for_use() is experiment.separator.module
        experiment.step(make_batch(config, 2))
        assert experiment.separator_for_use() is not experiment.separator.module
        start, end = state["separator"]["module"]["mask_bias"], experiment.separator.module.mask_bias
        expected = start + (1 - decay_at(2, 0.9)) * (end - start)
        assert experiment.separator_for_use().mask_bias.item() == pytest.approx(expected.item(), abs=1e-7)


def test_several_pictures_are_one_taller_picture() -> None:
    config = small_config(data={"pictures_per_object": 3})
    batch = make_batch(config, 0)
    network = separator().eval()
    pictures = batch.objects.float() / 255
    with torch.no_grad():
        output = network(batch.mix, pictures)
        first = network(batch.mix, pictures[:, :, :, 0])
        thrice = network(batch.mix, pictures[:, :, :, :1].expand_as(pictures))
    side = config.data.image_crop // 8
    assert output.visual.shape[-2:] == (3 * side, side)
    torch.testing.assert_close(output.visual[..., :side, :], first.visual)
    torch.testing.assert_close(output.visual.norm(dim=3), torch.ones_like(output.visual[:, :, :, 0]))
    assert not torch.allclose(output.mask, first.mask)
    torch.testing.assert_close(thrice.mask, first.mask, rtol=1e-4, atol=1e-5)  # the same picture says nothing new
