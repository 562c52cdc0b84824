"""`ialcms train --dry-run`: what a run would do, by a few steps of it; nothing is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ialcms.cli import main
from tests.support import torchrun, write_small_config


@pytest.fixture(scope="module")
def config_file(demo_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_config(tmp_path_factory.mktemp("config") / "small.yaml", demo_shards)


def test_it_says_what_it_would_do_and_writes_nothing(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert main(["train", str(config_file), "--folder", str(folder), "--dry-run", "train.separator_every=2"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"dry run, nothing is written: would begin a run in {folder} and train to step ")
    assert "parameters" in text
    assert re.search(r"^  lane +rank +mixture +instrument +clip", text, re.MULTILINE)
    assert len(re.findall(r"^  0 +0 +[12] ", text, re.MULTILINE)) == 4  # the first mix: two duets
    for kind in ("both networks learn", "the critic alone learns"):
        found = re.search(rf"^a step in which {kind}: (\S+) s$", text, re.MULTILINE)
        assert found is not None
        assert float(found.group(1)) > 0
    assert re.search(r"^[\d,]+ steps: about .* at this rate", text, re.MULTILINE)
    assert re.search(r"^memory of rank 0 at its peak: \d", text, re.MULTILINE)
    assert not folder.exists()


@pytest.mark.distributed
def test_on_two_ranks_one_speaks(config_file: Path, tmp_path: Path) -> None:
    folder = str(tmp_path / "run")
    done = torchrun(2, "-m", "ialcms", "train", str(config_file), "--folder", folder, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("dry run, nothing is written") == 1
    assert "on 2 ranks" in done.stdout
    assert not Path(folder).exists()


def test_faults_are_those_of_the_start(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(config_file), "--dry-run", "data.shards=none"]) == 2
    assert "none" in capsys.readouterr().err
