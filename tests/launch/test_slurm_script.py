"""`python -m launch.slurm`: batch scripts filled in and handed to sbatch, here one that only keeps what it gets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from launch import slurm
from tests.support import ROOT


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for sbatch, and the file that it writes what it was given to."""
    given = tmp_path / "given"
    program = tmp_path / "bin" / "sbatch"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" > {given}\ncat >> {given}\necho "1234;cluster"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.chdir(ROOT)
    return given


@pytest.mark.parametrize("verb", slurm.VERBS)
def test_every_verb_has_a_script_that_bash_understands(verb: str, tmp_path: Path) -> None:
    script = slurm.fill_in(verb, ["--nodes", "2", "--comment=two words"], ["a.yaml", "key=[1, 2]"], ROOT / "slurm")
    lines = script.splitlines()
    assert lines[0] == "#!/bin/bash"
    at = lines.index("#SBATCH --nodes 2")
    assert lines[at : at + 3] == ["#SBATCH --nodes 2", '#SBATCH "--comment=two words"', "set -- a.yaml 'key=[1, 2]'"]
    assert all(line.startswith("#") for line in lines[:at])  # sbatch reads no options behind the first command
    result = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert result.stderr == ""


def test_dry_run_prints_the_script_and_submits_nothing(sbatch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert slurm.main(["--dry-run", "--nodes=2", "train", "configs/demo.yaml"]) == 0
    assert "#SBATCH --nodes=2\nset -- configs/demo.yaml\n" in capsys.readouterr().out
    assert not sbatch.exists()


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (
            ["--nodes=2", "train", "configs/demo.yaml", "train.steps=3"],
            ["run folder: runs/demo-1234", "curves: tensorboard --logdir runs"],
        ),
        (
            ["train", "configs/demo.yaml", "--folder", "runs/mine"],
            ["run folder: runs/mine", "curves: tensorboard --logdir runs"],
        ),
        (
            ["--array=1-3", "sweep", "--list", "sweep.txt", "configs/demo.yaml"],
            ["run folder: runs/demo-1234", "curves: tensorboard --logdir runs/demo-1234"],
        ),
        (["evaluate", "runs/demo"], ["results: runs/demo/evaluation"]),
        (["evaluate", "runs/demo", "--out", "results/demo"], ["results: results/demo"]),
        (["--array=0-7", "pack", "data/music", "--out=data/shards"], ["shards: data/shards"]),
    ],
)
def test_it_submits_and_says_where_things_will_be(
    sbatch: Path, words: list[str], lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert slurm.main(words) == 0
    output = capsys.readouterr().out.splitlines()
    assert output == ["job: 1234", *lines, "watch it: squeue --job 1234"]
    assert sbatch.read_text().startswith("--parsable\n#!/bin/bash\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nodes=2"], "give a verb: train, evaluate, sweep, pack"),
        (["train"], "train of what? See --help"),
        (["train", "--folder", "runs/x"], "train of what? A configuration comes first; see --help"),
        (["--array=1-3", "sweep", "--list", "s.txt"], "sweep of what? A configuration comes first; see --help"),
        (["evaluate", "--out", "results"], "evaluate of what? A run comes first; see --help"),
        (["--array=0-7", "pack", "data/music"], "pack into which folder? Give --out"),
        (
            ["trian", "train", "x.yaml"],
            "'trian' is neither a verb (train, evaluate, sweep, pack) nor an option of sbatch",
        ),
    ],
)
def test_faults_are_one_line_and_exit_code_2(
    sbatch: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert slurm.main(words) == 2
    assert capsys.readouterr().err == f"launch: error: {message}\n"
    assert not sbatch.exists()


def test_elsewhere_than_in_the_project(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "launch.slurm", "train", "x.yaml"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr == "launch: error: slurm/train.sbatch is not here; submit jobs from the project's folder\n"


def test_what_sbatch_refuses(sbatch: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition: x' >&2\nexit 1\n")
    assert slurm.main(["--partition=x", "train", "configs/demo.yaml"]) == 2
    assert capsys.readouterr().err == "launch: error: sbatch: invalid partition: x\n"


def test_a_machine_without_slurm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PATH", "/nowhere")
    assert slurm.main(["train", "configs/demo.yaml"]) == 2
    assert "there is no sbatch here" in capsys.readouterr().err
