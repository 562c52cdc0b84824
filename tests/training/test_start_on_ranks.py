"""Of the ranks of a job rank 0 alone reads checkpoints and weights: torchrun, gloo, the files that each rank opens."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18

from ialcms.runs import checkpoint
from tests.support import torchrun, write_small_config

pytestmark = pytest.mark.distributed

# Like `ialcms`, but each rank writes down the files that it opens.
OBSERVED = """
import os, sys
from ialcms import cli
from ialcms.launched import end_process

folder = sys.argv[1]
log = os.open(f"{folder}/opened-{os.environ['RANK']}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

def observe(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
        os.write(log, os.fsencode(arguments[0]) + b"\\n")

sys.addaudithook(observe)
end_process(cli.main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("observed") / "program.py"
    path.write_text(OBSERVED)
    return path


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("backbone") / "resnet18.pt"
    torch.manual_seed(11)
    torch.save(resnet18(weights=None).state_dict(), path)
    return path


def train(program: Path, folder: Path, *arguments: str) -> str:
    """Train on two ranks; returns what they said."""
    folder.parent.mkdir(exist_ok=True)
    done = torchrun(2, str(program), str(folder.parent), "train", *arguments, "--folder", str(folder))
    assert done.returncode == 0, done.stderr
    return done.stderr


def readers(folder: Path, name: str) -> list[int]:
    """The ranks of the last run that opened a file of this name."""
    opened = [(folder.parent / f"opened-{rank}").read_text().splitlines() for rank in range(2)]
    return [rank for rank, paths in enumerate(opened) if any(os.path.basename(path) == name for path in paths)]


def test_rank_0_reads_for_all(demo_shards: Path, tmp_path: Path, program: Path) -> None:
    """Resumed from the checkpoint before a damaged one, the run ends with the bits of an uninterrupted one."""
    config = str(write_small_config(tmp_path / "small.yaml", demo_shards, steps=4, checkpoint_every=2))
    whole = tmp_path / "whole" / "run"
    train(program, whole, config)
    assert readers(whole, "small.yaml") == [0, 1]  # so the ranks are observed

    resumed = tmp_path / "resumed" / "run"
    shutil.copytree(whole, resumed)
    (resumed / "finished").unlink(missing_ok=True)
    damaged = resumed / "checkpoints" / "step-00000004" / "state.pt"
    damaged.chmod(0o644)
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.unlink()  # the best checkpoint may be the same file
    damaged.write_bytes(content)
    said = train(program, resumed, config)
    assert said.count("is damaged (the content of state.pt has changed since it was written)") == 1
    assert "resumes from step 2 of 4" in said
    assert readers(resumed, "state.pt") == [0]
    assert readers(resumed, "meta.json") == [0]
    ours, theirs = (checkpoint.load_state(run / "checkpoints" / "step-00000004") for run in (resumed, whole))
    assert bits(ours) == bits(theirs)

    begun = tmp_path / "begun" / "run"
    said = train(program, begun, config, "--init-from", str(whole), "train.steps=1")  # which compares the ranks
    assert "starts with" in said
    assert readers(begun, "state.pt") == [0]


def bits(state: object) -> object:
    if isinstance(state, dict):
        return {key: bits(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [bits(value) for value in state]
    return state.contiguous().flatten().view(torch.uint8).tolist() if isinstance(state, torch.Tensor) else state


def test_rank_0_reads_the_backbone(demo_shards: Path, tmp_path: Path, program: Path, backbone: Path) -> None:
    config = str(write_small_config(tmp_path / "small.yaml", demo_shards, steps=1))
    folder = tmp_path / "backbone" / "run"
    train(program, folder, config, "model.visual.width=64", f"model.visual.weights={backbone}")
    assert readers(folder, backbone.name) == [0]
    state = checkpoint.load_state(folder / "checkpoints" / "step-00000001")
    weights = torch.load(backbone, weights_only=True)
    assert torch.equal(state["separator"]["module"]["visual.backbone.conv1.weight"], weights["conv1.weight"])


def test_weights_that_are_missing_stop_all_ranks(demo_shards: Path, tmp_path: Path, program: Path) -> None:
    config = str(write_small_config(tmp_path / "small.yaml", demo_shards, steps=1))
    arguments = ["train", config, "--folder", str(tmp_path / "run"), f"model.visual.weights={tmp_path / 'none.pt'}"]
    done = torchrun(2, str(program), str(tmp_path), *arguments)
    assert done.returncode != 0
    reasons = re.findall("^ialcms: error: .*do not exist", done.stderr, re.MULTILINE)  # torchrun repeats it behind more
    assert len(reasons) == 1
    assert not (tmp_path / "run" / "checkpoints").exists()
