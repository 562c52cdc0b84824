"""Runs with all options of the training: resumed to the bit, and used by the average of the separator's weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ialcms.cli import main
from ialcms.config import load_config
from ialcms.data.remote import open_manifest
from ialcms.engine import Ranks
from ialcms.inference import load_model
from ialcms.runs import checkpoint
from ialcms.runs.run_folder import RunFolder
from ialcms.runs.separators import find_checkpoint, load_separator
from ialcms.training.validation import Validation
from tests.support import ON_CPU, write_small_config

OPTIONS = ["train.ema_decay=0.9", "optim.warmup_steps=2", "optim.cosine_steps=6", "loss.spectral_weight=0.1",
           "loss.spectral_windows=[256, 1024]", "data.pictures_per_object=2", "train.steps=5",
           "train.validate_every=5", "train.visualise_every=0"]  # fmt: skip


@pytest.fixture(scope="module")
def config_file(demo_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_config(tmp_path_factory.mktemp("config") / "small.yaml", demo_shards)


@pytest.fixture(scope="module")
def run(config_file: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", ON_CPU["CUDA_VISIBLE_DEVICES"])
        assert main(["train", str(config_file), "--folder", str(folder.path), *OPTIONS]) == 0
    return folder


def state(folder: RunFolder) -> dict[str, Any]:
    newest = checkpoint.newest(folder.checkpoints)
    assert newest is not None
    return checkpoint.load_state(newest)


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_resumed_run_is_the_same_to_the_bit(run: RunFolder, config_file: Path, tmp_path: Path) -> None:
    start = ["train", str(config_file), "--folder", str(tmp_path / "run"), *OPTIONS]
    assert main([*start, "train.steps=3"]) == 0
    assert main(start) == 0
    whole, resumed = state(run), state(RunFolder(tmp_path / "run"))
    for part in ("separator", "critic", checkpoint.AVERAGE):
        assert equal(whole[part]["module"], resumed[part]["module"]), part
    assert not equal(whole["separator"]["module"], whole[checkpoint.AVERAGE]["module"])


def test_rates_and_losses_are_logged(run: RunFolder) -> None:
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    rates = {row["step"]: row["learning_rate/audio"] for row in rows if "learning_rate/audio" in row}
    base = load_config(run.config).optim.lr_audio
    assert [rates[step] / base for step in range(1, 6)] == pytest.approx([0.5, 1, 1, (1 + 0.5**0.5) / 2, 0.5])
    assert sum("loss/spectral" in row for row in rows) == 3  # the separator learns at steps 0, 2 and 4


def test_the_average_is_validated_evaluated_and_exported(run: RunFolder, tmp_path: Path) -> None:
    saved = state(run)
    average = saved[checkpoint.AVERAGE]["module"]
    config = load_config(run.config)
    best = find_checkpoint(run.path)
    separator = load_separator(best, torch.device("cpu"), config).separator
    assert equal(dict(separator.state_dict()), average)
    with Ranks() as ranks:
        result = Validation(config, open_manifest(config.data.shards), ranks).run(separator)
    assert result.means["SDR"] == pytest.approx(checkpoint.read_meta(best)["progress"]["best_score"], abs=1e-4)

    assert equal(dict(load_model(run.path, "cpu").separator.state_dict()), average)
    assert main(["export", str(run.path), "--out", str(tmp_path / "a.pt")]) == 0
    assert equal(torch.load(tmp_path / "a.pt", weights_only=True)["separator"], average)
    assert main(["checkpoint", "export", str(run.path), "--out", str(tmp_path / "a.ckpt")]) == 0
    published = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    moved = [tensor for tensor in published.values() if tensor.shape == average["decoder.score.weight"].shape]
    assert any(torch.equal(tensor, average["decoder.score.weight"]) for tensor in moved)


def test_training_begins_with_the_average_of_another_run(run: RunFolder, config_file: Path, tmp_path: Path) -> None:
    """Its own checkpoint, without an average, is used as it is, as one of an earlier version is."""
    plain = RunFolder(tmp_path / "run")
    start = ["train", str(config_file), "--folder", str(plain.path), "--init-from", str(run.path)]
    assert main([*start, "train.steps=1", "optim.lr_audio=1e-12", "optim.lr_visual=1e-12"]) == 0
    begun, average = state(plain), state(run)[checkpoint.AVERAGE]["module"]
    assert checkpoint.AVERAGE not in begun
    name = "decoder.score.weight"
    torch.testing.assert_close(begun["separator"]["module"][name], average[name], rtol=0, atol=1e-9)
    separator = load_separator(plain.path, torch.device("cpu"), load_config(run.config)).separator
    assert equal(dict(separator.state_dict()), begun["separator"]["module"])


def test_a_run_keeps_its_options(run: RunFolder, config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = ["train", str(config_file), "--folder", str(run.path), *OPTIONS]
    assert main([*start, "train.steps=6", "train.ema_decay=0.5"]) == 2
    assert "train.ema_decay was 0.9, now 0.5" in capsys.readouterr().err
