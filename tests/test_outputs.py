"""Outputs that cannot be written and inputs of another kind: one line, exit code 2, before any work."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from ialcms.cli import main
from ialcms.files import check_writable
from ialcms.runs.run_folder import RunFolder
from ialcms.terminal import runnable
from tests.support.evaluation import RATE, evaluation_config, make_run, write_evaluation_shards


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("outputs")
    shards = write_evaluation_shards(folder / "shards")
    soundfile.write(folder / "sound.wav", np.sin(np.arange(2 * RATE)), RATE)
    Image.new("RGB", (40, 30)).save(folder / "picture.png")
    return make_run(folder / "run", evaluation_config(shards.folder), shards)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line of a refused command."""
    assert main(list(map(str, arguments))) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("ialcms: error: ")
    return line


def separate(run: RunFolder, out: Path) -> list[str | Path]:
    folder = run.path.parent
    pictures = ["--pictures", folder / "picture.png", folder / "picture.png"]
    return ["separate", folder / "sound.wav", "--checkpoint", run.path, *pictures, "--out", out]


def export(run: RunFolder, out: Path) -> list[str | Path]:
    return ["export", run.path, "--out", out]


def export_checkpoint(run: RunFolder, out: Path) -> list[str | Path]:
    return ["checkpoint", "export", run.checkpoints / "best-00000007", "--out", out]


def pretrain(run: RunFolder, out: Path) -> list[str | Path]:
    return ["pretrain", run.config, "--out", out, "--steps", "100000000"]  # it does not get to them


@pytest.mark.parametrize("command", [separate, export, export_checkpoint, pretrain])
@pytest.mark.parametrize("where", ["/proc/nowhere/out.pt", "{file}/out.pt", "{long}/out.pt"])
def test_a_place_that_cannot_be_written(
    command: Callable[[RunFolder, Path], list[str | Path]],
    where: str,
    run: RunFolder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").touch()
    out = where.format(file=tmp_path / "file", long=tmp_path / ("x" * 300))
    assert "out.pt" in refusal(capsys, *command(run, Path(out)))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("command", [export, export_checkpoint, pretrain])
def test_a_folder_for_a_file(
    command: Callable[[RunFolder, Path], list[str | Path]],
    run: RunFolder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert f"{tmp_path} is a folder" in refusal(capsys, *command(run, tmp_path))


@pytest.mark.parametrize("command", [export, export_checkpoint, pretrain])
def test_a_pipe_for_a_file(
    command: Callable[[RunFolder, Path], list[str | Path]],
    run: RunFolder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "is a device or a pipe" in refusal(capsys, *command(run, tmp_path / "pipe"))
    assert (tmp_path / "pipe").is_fifo()


def test_configurations_of_another_kind(run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "binary.yaml").write_bytes(bytes(range(256)) * 20)
    assert "binary.yaml" in refusal(capsys, "train", tmp_path / "binary.yaml", "--folder", tmp_path / "run")
    refusal(capsys, "train", tmp_path, "--folder", tmp_path / "run")
    assert "is no run's folder" in refusal(capsys, "info", tmp_path)
    refusal(capsys, "info", "/dev/null/x")
    assert not (tmp_path / "run").exists()


def test_info_of_a_run(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(run.path)]) == 0
    of_run = capsys.readouterr().out
    assert main(["info", str(run.config)]) == 0
    assert of_run == capsys.readouterr().out


def test_what_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "deep" / "file.pt")
    check_writable(tmp_path / "file.pt")
    assert not list(tmp_path.iterdir())


def test_printed_commands_work_without_an_activated_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "environment" / "bin"
    folder.mkdir(parents=True)
    for name in ("python", "tensorboard"):
        (folder / name).touch(mode=0o755)
    monkeypatch.setattr("sys.executable", str(folder / "python"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin")
    assert runnable("tensorboard", "--logdir", "my runs") == "environment/bin/tensorboard --logdir 'my runs'"
    assert runnable("ialcms", "info") == "environment/bin/python -m ialcms info"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert runnable("tensorboard") == f"{folder}/tensorboard"
    monkeypatch.setenv("PATH", str(folder))
    assert runnable("tensorboard") == "tensorboard"
