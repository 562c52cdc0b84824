"""The demo's four configurations."""

from __future__ import annotations

from pathlib import Path

import pytest

from ialcms.cli import main
from ialcms.config import flatten, load_config, to_dict

OPTIONS = {
    "name",
    "model.masks",
    "optim.lr_audio",
    "optim.lr_visual",
    "optim.warmup_steps",
    "optim.cosine_steps",
    "optim.lr_floor",
    "optim.lr_scaling",
    "train.ema_decay",
    "train.reference_batch",
}


@pytest.mark.parametrize(
    ("plain", "best", "more"),
    [("demo", "demo_best", {"optim.critic_lr_scaling"}), ("demo_solo", "demo_solo_best", set())],
)
def test_the_best_recipe_is_the_demo_with_options_of_the_training(plain: str, best: str, more: set[str]) -> None:
    config = load_config(best)
    assert config.train.global_batch * config.train.steps == 8 * 400  # the mixes that the demo sees
    ours, theirs = (flatten(to_dict(load_config(name, ["train.global_batch=8"]))) for name in (best, plain))
    assert {field for field in ours if ours[field] != theirs[field]} == OPTIONS | more


@pytest.mark.parametrize("flags", [[], ["--best"], ["--supervised"], ["--supervised", "--best"]])
def test_a_wrong_value_is_refused_before_any_data_are_made(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    assert main(["demo", *flags, "--data", str(data), "train.steps=-1"]) == 2
    assert "train.steps" in capsys.readouterr().err
    assert not data.exists()
