"""Checkpoints whose meta data or state are of wrong kinds, with checksums that fit: one line, exit code 2."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ialcms.cli import main
from ialcms.engine import Ranks
from ialcms.inference import load_model
from ialcms.models import Separator
from ialcms.runs import checkpoint
from ialcms.runs.checkpoint import Progress
from ialcms.training.step import Experiment
from tests.support import small_config

CONFIG = small_config()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    module = Separator(CONFIG.model, CONFIG.audio).state_dict()
    state = {"separator": {"module": module, "optimizer": {}}, "skipped_steps": 0}
    return checkpoint.save(tmp_path, CONFIG, "manifest", state, Progress(4, 1.5, 2, ("a",)))


def change_meta(folder: Path, name: str, value: Any) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    target = meta
    *sections, key = name.split("/")
    for section in sections:
        target = target[section]
    target[key] = value
    (folder / "meta.json").write_text(json.dumps(checkpoint.sealed(meta)))


def change_state(folder: Path, change: Callable[[dict], Any]) -> None:
    state = torch.load(folder / "state.pt", weights_only=True)
    torch.save(change(state), folder / "state.pt")
    raw = (folder / "state.pt").read_bytes()
    change_meta(folder, "state_bytes", len(raw))
    change_meta(folder, "state_sha256", hashlib.sha256(raw).hexdigest())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("progress", [1]), ("progress", None), ("progress/step", "4"), ("progress/step", -1), ("progress/step", 2**70),
        ("progress/step", 4.0), ("progress/step", True), ("progress/best_score", "high"), ("progress/best_step", [2]),
        ("progress/bad_clips", 3), ("progress/bad_clips", [1]), ("progress/more", 1), ("config", []), ("config", "x"),
        ("config_digest", 7), ("manifest_digest", None), ("program", {}), ("state_sha256", 5),
    ],
)  # fmt: skip
def test_meta_of_a_wrong_kind(name: str, value: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_meta(folder, name, value)
    for use in (
        lambda: checkpoint.load(folder, CONFIG, "manifest"),
        lambda: load_model(folder, "cpu"),
        lambda: checkpoint.read_meta(folder),
    ):
        with pytest.raises(ValueError, match=r"step-00000004 is damaged \(meta.json: its ") as raised:
            use()
        assert "\n" not in str(raised.value)
    assert main(["checkpoint", "show", str(folder)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert checkpoint.newest_intact(folder.parent) is None  # a resume takes the one before


@pytest.mark.parametrize(
    ("key", "value"),
    [("model.unet.width", 10**9), ("model.unet.width", "wide"), ("model", 3), ("model.unet.width.more", 1), ("x.y", 1),
     ("audio.hop", 0), ("loss.temperature", float("nan"))],
)  # fmt: skip
def test_configurations_that_cannot_be(key: str, value: Any, folder: Path) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    change_meta(folder, "config", meta["config"] | {key: value})
    for use in (lambda: checkpoint.load(folder, CONFIG, "manifest"), lambda: load_model(folder, "cpu")):
        with pytest.raises(ValueError, match=r"step-00000004|checkpoint") as raised:
            use()
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: [1],
        lambda state: {},
        lambda state: {**state, "separator": torch.ones(1)},
        lambda state: {**state, "separator": {"module": 3}},
        lambda state: {**state, "separator": {"module": {"a": 1}}},
        lambda state: {**state, "critic": None},
    ],
)
def test_states_without_networks(change: Callable[[dict], Any], folder: Path) -> None:
    change_state(folder, change)
    with pytest.raises(ValueError, match=r"step-00000004 is damaged \(state.pt holds no") as raised:
        checkpoint.load_state(folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state,  # without the optimizer's state, critic and bank that a resume needs
        lambda state: {**state, "separator": {"module": {"x": torch.ones(1)}, "optimizer": {}}},
        lambda state: {**state, "skipped_steps": None, "separator": {**state["separator"], "optimizer": 5}},
    ],
)
def test_states_that_do_not_fit_a_run(change: Callable[[dict], Any], folder: Path) -> None:
    change_state(folder, change)
    with Ranks() as ranks:
        experiment = Experiment(CONFIG, ranks)
        state = checkpoint.load_state(folder)
        with (
            pytest.raises(
                ValueError, match=r"does not fit this configuration .*; use another one, or start a new"
            ) as raised,
            checkpoint.fitting(folder),
        ):
            experiment.load_state_dict(state)
    assert "\n" not in str(raised.value)
