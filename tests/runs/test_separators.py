"""Finding a separator: by a run, a checkpoint, or a file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from ialcms.runs import checkpoint
from ialcms.runs.checkpoint import Progress
from ialcms.runs.run_folder import RunFolder
from ialcms.runs.separators import find_checkpoint, load_separator
from tests.support.evaluation import evaluation_config, make_run, make_separator, write_evaluation_shards

CPU = torch.device("cpu")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Its best checkpoint is of step 7, its newest of step 9."""
    shards = write_evaluation_shards(tmp_path / "shards")
    config = evaluation_config(shards.folder)
    made = make_run(tmp_path / "run", config, shards)
    state = {"separator": {"module": make_separator(config, seed=1).state_dict()}}
    checkpoint.save(made.checkpoints, config, shards.digest, state, Progress(step=9))
    return made


def test_the_best_and_the_newest_of_a_run(run: RunFolder) -> None:
    assert find_checkpoint(run.path).name == "best-00000007"
    assert find_checkpoint(run.path, "newest").name == "step-00000009"
    step = run.checkpoints / "step-00000007"
    assert find_checkpoint(step) == find_checkpoint(step, "newest") == step


def test_where_there_is_none(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file is a file of weights, not a run's folder; make one of it"):
        find_checkpoint(tmp_path / "file")
    with pytest.raises(ValueError, match=r"is no run's folder and no checkpoint's"):
        find_checkpoint(tmp_path / "none")
    shutil.rmtree(run.checkpoints / "best-00000007")
    with pytest.raises(ValueError, match=r"there is no best checkpoint in .*; train until a validation first"):
        find_checkpoint(run.path)
    assert find_checkpoint(run.path, "newest").name == "step-00000009"
    (run.checkpoints / "step-00000009" / "meta.json").unlink()
    assert find_checkpoint(run.path, "newest").name == "step-00000007"
    shutil.rmtree(run.checkpoints)
    with pytest.raises(ValueError, match=r"there is no complete checkpoint in"):
        find_checkpoint(run.path, "newest")


def test_a_damaged_checkpoint_says_what_is_wrong_with_it(run: RunFolder) -> None:
    folder = find_checkpoint(run.path, "newest")
    (folder / "meta.json").unlink()
    with pytest.raises(ValueError, match=r"is not a complete checkpoint"):
        load_separator(folder, CPU)


def test_a_loaded_separator(run: RunFolder) -> None:
    config = run.read_config()
    loaded = load_separator(run.path, CPU, config)
    assert (loaded.step, loaded.config) == (7, config)
    assert loaded.digest == checkpoint.read_meta(find_checkpoint(run.path))["state_sha256"]
    assert not loaded.separator.training
    assert not any(parameter.requires_grad for parameter in loaded.separator.parameters())
    expected = make_separator(config).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.separator.state_dict().items())
    wider = run.read_config(["model.unet.width=8"])
    with pytest.raises(ValueError, match=r"is of another configuration: model\.unet\.width was 4, now 8"):
        load_separator(run.path, CPU, wider)
