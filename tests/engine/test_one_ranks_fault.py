"""Faults that a single rank finds: all stop, at the same step on any number of ranks, and the reason is printed."""

from __future__ import annotations

import re
import shutil
import tarfile
from pathlib import Path

import pytest

from ialcms import cli
from ialcms.data.manifest import read_manifest
from ialcms.engine import Ranks
from tests.support import python, torchrun, write_small_config

FAULT = """
import os
from ialcms.training import trainer
from ialcms.cli import main
from ialcms.launched import end_process

whole = trainer.train_batches

def train_batches(*args, **kwargs):
    for number, batch in enumerate(whole(*args, **kwargs)):
        if number == 2 and os.environ["RANK"] == "1":
            raise ValueError("shard seven is missing")
        yield batch

trainer.train_batches = train_batches
end_process(main())
"""


@pytest.mark.distributed
def test_the_reason_is_told_though_the_rank_0_does_not_know_it(demo_shards: Path, tmp_path: Path) -> None:
    config = write_small_config(tmp_path / "small.yaml", demo_shards, steps=10)
    program = tmp_path / "fault.py"
    program.write_text(FAULT)
    done = torchrun(2, str(program), "train", str(config), "--folder", str(tmp_path / "run"))
    assert done.returncode == 1
    assert "[rank 1] shard seven is missing\n" in done.stderr


def test_a_rank_that_is_not_ended_in_time_speaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waited = []
    monkeypatch.setattr("ialcms.cli.refusing.time.sleep", waited.append)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(["evaluate", str(tmp_path / "none")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(rf"ialcms: error: rank 1 on \S+: {tmp_path}/none is no run's folder", line)
    assert waited == [15]


@pytest.mark.distributed
def test_too_many_bad_clips_stop_at_the_same_step_on_any_number_of_ranks(demo_shards: Path, tmp_path: Path) -> None:
    shards = shutil.copytree(demo_shards, tmp_path / "shards")
    broken = read_manifest(shards).of_split("train")[2].key
    damage(shards, f"{broken}.flac")
    config = write_small_config(tmp_path / "small.yaml", shards, steps=50)
    reasons = []
    for ranks, start in ((1, python), (2, lambda *words: torchrun(2, *words))):
        folder = tmp_path / f"run{ranks}"
        done = start("-m", "ialcms", "train", str(config), "--folder", str(folder), "data.max_bad_fraction=0")
        reasons += re.findall(r"^ialcms: error: (1 of 5 training clips cannot be used.*)", done.stderr, re.M)
        assert (folder / "train.log").read_text().count(f"replaced a clip (the 1. so far): clip {broken}") == 1
    assert len(reasons) == 2
    assert reasons[0] == reasons[1]
    assert re.search(rf"the last, in step \d+: clip {broken}", reasons[0])


def damage(shards: Path, name: str) -> None:
    """Overwrite a file inside a shard."""
    for shard in shards.glob("*.tar"):
        with tarfile.open(shard) as tar:
            found = {member.name: member for member in tar}.get(name)
        if found is not None:
            with open(shard, "rb+") as file:
                file.seek(found.offset_data)
                file.write(bytes(found.size))
            return
    raise AssertionError(f"{name} is in no shard")


def test_more_ranks_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "3"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "3")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"^3 ranks were started on a machine with 2 GPU\(s\).*--nproc_per_node=2"):
        Ranks()
