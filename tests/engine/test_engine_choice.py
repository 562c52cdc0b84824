"""Which engine a run gets, and what is said when it cannot have it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from ialcms.engine import check_engine
from ialcms.engine.deepspeed_settings import read_settings
from tests.support import ROOT, small_config

ZERO = [f"configs/deepspeed/zero{stage}.json" for stage in range(4)]


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks of a launcher."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def settings_file(tmp_path: Path, **values: Any) -> str:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(values))
    return str(path)


@pytest.mark.parametrize("engine", ["auto", "single"])
def test_one_process(engine: str) -> None:
    check_engine(small_config(train={"engine": engine}))


@pytest.mark.parametrize("engine", ["auto", "ddp"])
@pytest.mark.usefixtures("launched")
def test_two_ranks(engine: str) -> None:
    check_engine(small_config(train={"engine": engine, "accumulation": 2}))


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"engine": "single"}, "train.engine is 'single', but 2 ranks were started"),
        ({"global_batch": 3}, "train.global_batch is 3, which 2 ranks cannot share evenly"),
        ({"accumulation": 4}, "train.global_batch is 4, which 2 ranks cannot take in 4 equal micro-batches"),
        (
            {"engine": "deepspeed", "gradient_compression": "bf16"},
            "train.gradient_compression is 'bf16', which only ddp",
        ),
        ({"engine": "deepspeed", "deepspeed_config": "zero9.json"}, "zero9.json cannot be read"),
    ],
)
@pytest.mark.usefixtures("launched")
def test_faults_with_two_ranks(train: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_engine(small_config(train=train))


@pytest.mark.parametrize("engine", ["ddp", "deepspeed"])
def test_engines_of_many_ranks_need_a_launcher(engine: str) -> None:
    with pytest.raises(
        ValueError, match=f"train.engine is '{engine}', which needs a launcher; start the run with torchrun"
    ):
        check_engine(small_config(train={"engine": engine}))


@pytest.mark.usefixtures("launched")
def test_deepspeed_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="DeepSpeed is not installed; install it with DS_BUILD_OPS=0 pip install"):
        check_engine(small_config(train={"engine": "deepspeed"}))


@pytest.mark.parametrize("path", ZERO)
def test_the_projects_files_leave_the_numbers_to_the_configuration(path: str) -> None:
    config = small_config(
        train={"deepspeed_config": path, "global_batch": 12, "accumulation": 3}, optim={"clip_norm": 2.5}
    )
    settings = read_settings(config, world_size=2)
    assert settings["zero_optimization"]["stage"] == ZERO.index(path)
    assert settings["train_batch_size"] == 12
    assert settings["train_micro_batch_size_per_gpu"] == 2
    assert settings["gradient_accumulation_steps"] == 3
    assert settings["gradient_clipping"] == 2.5
    unclipped = read_settings(small_config(train={"deepspeed_config": path}), world_size=2)
    assert unclipped["gradient_clipping"] == 0  # DeepSpeed clips at 1 where nothing is said


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"gradient_clipping": 1.0}, r"gradient_clipping is 1.0, but optim.clip_norm is 0.0; write \"auto\""),
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps is 2, but train.accumulation is 1"),
        ({"train_batch_size": 64}, "train_batch_size is 64, but train.global_batch is 4"),
        ({"train_micro_batch_size_per_gpu": 4}, "is 4, but train.global_batch / ranks / train.accumulation is 2"),
        ({"optimizer": {"type": "Adam"}}, "remove 'optimizer'; that is set by the optim section"),
        ({"bf16": {"enabled": True}}, "remove 'bf16'; that is set by train.precision=bf16"),
        ({"scheduler": {"type": "WarmupLR"}}, "remove 'scheduler'"),
        ({"zero_optimization": {"stage": 4}}, "zero_optimization.stage is 4; choose 0, 1, 2 or 3"),
        ({}, "zero_optimization.stage is missing; choose 0, 1, 2 or 3"),
    ],
)
def test_files_that_contradict_the_configuration(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    config = small_config(train={"deepspeed_config": settings_file(tmp_path, **values)})
    with pytest.raises(ValueError, match=message):
        read_settings(config, world_size=2)


def test_files_may_say_the_same(tmp_path: Path) -> None:
    path = settings_file(tmp_path, train_batch_size=4, fp16={"enabled": False}, zero_optimization={"stage": 1})
    assert read_settings(small_config(train={"deepspeed_config": path}), world_size=2)["train_batch_size"] == 4


@pytest.mark.parametrize(("text", "message"), [("{", "is not valid JSON"), ("[]", "must hold an object")])
def test_broken_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_settings(small_config(train={"deepspeed_config": str(path)}), world_size=2)
