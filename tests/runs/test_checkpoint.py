"""Checkpoints on disk: whole or absent, damage noticed, failed writes survived."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ialcms.runs import checkpoint
from ialcms.runs.checkpoint import Progress
from ialcms.runs.checkpoint_writer import CheckpointWriter
from tests.support import small_config

CONFIG = small_config(train={"checkpoint_every": 2, "keep_checkpoints": 2})


def state(value: float) -> dict:
    return {"separator": {"module": {"weight": torch.full((50,), value)}, "optimizer": {"state": {}, "step": 3}}}


def write(root: Path, step: int) -> Path:
    return checkpoint.save(root, CONFIG, "manifest", state(step), Progress(step))


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path, CONFIG, "manifest", state(7), Progress(4, best_score=1.5, best_step=2))
    loaded, progress = checkpoint.load(folder, CONFIG, "manifest")
    assert torch.equal(loaded["separator"]["module"]["weight"], torch.full((50,), 7.0))
    assert loaded["separator"]["optimizer"] == {"state": {}, "step": 3}
    assert progress == Progress(4, 1.5, 2)


def test_a_half_written_checkpoint_is_never_seen(tmp_path: Path) -> None:
    write(tmp_path, 2)
    half = tmp_path / ".step-00000004.tmp"  # a writer was killed
    half.mkdir()
    (half / "state.pt").write_bytes(b"half")
    assert checkpoint.newest(tmp_path) == checkpoint.newest_intact(tmp_path) == tmp_path / "step-00000002"
    checkpoint.prune(tmp_path, 2)
    assert not half.exists()


def truncate(folder: Path) -> None:
    os.truncate(folder / "state.pt", 100)


def empty(folder: Path) -> None:
    (folder / "state.pt").write_bytes(b"")


def flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / "state.pt").read_bytes())
    content[len(content) // 2] ^= 4
    (folder / "state.pt").write_bytes(content)


def lose_meta(folder: Path) -> None:
    (folder / "meta.json").unlink()


def scribble_meta(folder: Path) -> None:
    (folder / "meta.json").write_text("{")


def flip_a_bit_of_the_step(folder: Path) -> None:
    text = (folder / "meta.json").read_text()
    assert '"step": 4' in text
    (folder / "meta.json").write_text(text.replace('"step": 4', '"step": 5'))


def list_as_meta(folder: Path) -> None:
    (folder / "meta.json").write_text("[4]")


def foreign_meta(folder: Path) -> None:
    (folder / "meta.json").write_text('{"format": "another"}')


def incomplete_meta(folder: Path) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    del meta["config"]
    (folder / "meta.json").write_text(json.dumps(checkpoint.sealed(meta)))


DAMAGES = [
    truncate, empty, flip_a_bit, lose_meta, scribble_meta, flip_a_bit_of_the_step, list_as_meta, foreign_meta,
    incomplete_meta,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_asked_for_is_one_clear_line(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    folder = write(tmp_path, 4)
    damage(folder)
    with pytest.raises(ValueError, match=r"step-00000004 is (damaged \(.*\); |not a complete checkpoint)") as error:
        checkpoint.load(folder, CONFIG, "manifest")
    assert "\n" not in str(error.value)
    assert folder.is_dir()


def test_checkpoints_without_a_checksum_of_meta_are_read(tmp_path: Path) -> None:
    folder = write(tmp_path, 4)
    meta = json.loads((folder / "meta.json").read_text())
    del meta["meta_sha256"]
    (folder / "meta.json").write_text(json.dumps(meta))
    assert checkpoint.newest_intact(tmp_path) == folder
    assert checkpoint.load(folder, CONFIG, "manifest")[1] == Progress(4)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_falls_back_to_the_one_before(tmp_path: Path, damage: object, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, 2)
    assert callable(damage)
    damage(write(tmp_path, 4))
    assert checkpoint.newest_intact(tmp_path) == tmp_path / "step-00000002"
    (record,) = caplog.records
    assert "step-00000004 is damaged" in record.getMessage()
    assert "set aside as damaged-step-00000004" in record.getMessage()
    # and out of the way: neither pruning nor the next start counts it
    write(tmp_path, 6)
    checkpoint.prune(tmp_path, 2)
    assert [folder.name for folder in sorted(tmp_path.glob("step-*"))] == ["step-00000002", "step-00000006"]


def test_all_damaged_means_no_checkpoint(tmp_path: Path) -> None:
    truncate(write(tmp_path, 2))
    assert checkpoint.newest_intact(tmp_path) is None


def test_pruning_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8):
        folder = write(tmp_path, step)
        if step in (2, 4):
            checkpoint.keep_as_best(folder)
        checkpoint.prune(tmp_path, 2)
    names = sorted(folder.name for folder in tmp_path.iterdir())
    assert names == ["best-00000004", "step-00000006", "step-00000008"]
    assert checkpoint.best(tmp_path) == tmp_path / "best-00000004"
    loaded, _ = checkpoint.load(tmp_path / "best-00000004", CONFIG, None)
    assert float(loaded["separator"]["module"]["weight"][0]) == 4


def test_the_best_is_copied_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, target: str) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    folder = write(tmp_path, 2)
    monkeypatch.setattr(os, "link", refuse)
    checkpoint.keep_as_best(folder)
    shutil.rmtree(folder)
    _, progress = checkpoint.load(tmp_path / "best-00000002", CONFIG, "manifest")
    assert progress.step == 2


def test_a_kill_before_the_best_was_kept_is_restored(tmp_path: Path) -> None:
    checkpoint.keep_as_best(write(tmp_path, 2))
    write(tmp_path, 4)  # the best so far; the writer is killed here
    checkpoint.restore_best(tmp_path, Progress(4, best_score=1.5, best_step=4))
    assert checkpoint.best(tmp_path) == tmp_path / "best-00000004"
    assert not (tmp_path / "best-00000002").exists()
    checkpoint.restore_best(tmp_path, Progress(4))  # no validation yet
    checkpoint.restore_best(tmp_path, Progress(4, best_score=1.5, best_step=3))  # kept, and then lost by somebody
    assert checkpoint.best(tmp_path) == tmp_path / "best-00000004"


def test_going_on_from_an_older_one_sets_the_later_aside(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        folder = write(tmp_path, step)
    checkpoint.keep_as_best(folder)
    checkpoint.abandon_after(tmp_path, 2)
    assert checkpoint.best(tmp_path) is None  # it is of what the run does not become
    assert (tmp_path / "abandoned-best-00000006" / "state.pt").is_file()
    assert checkpoint.newest(tmp_path) == tmp_path / "step-00000002"
    assert (tmp_path / "abandoned-step-00000006" / "state.pt").is_file()


def test_other_configuration_data_or_version_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path, 2)
    with pytest.raises(
        ValueError, match=r"loss\.temperature was 0\.3, now 0\.5; restore the value, or start a new run"
    ):
        checkpoint.load(folder, small_config(loss={"temperature": 0.5}), "manifest")
    with pytest.raises(ValueError, match="trained on other shards"):
        checkpoint.load(folder, CONFIG, "another")
    checkpoint.load(folder, small_config(train={"steps": 9, "checkpoint_every": 5}), "manifest")  # free to differ
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(checkpoint.sealed(meta | {"version": 99, "program": "7.0"})))
    with pytest.raises(ValueError, match=r"has format ialcms-checkpoint 99.*program version that wrote it \(7\.0\)"):
        checkpoint.load(folder, CONFIG, "manifest")


class Malicious:
    def __reduce__(self) -> tuple:
        return (print, ("executed",))


def test_nothing_is_unpickled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path, 2)
    torch.save({"separator": Malicious()}, folder / "state.pt")
    meta = json.loads((folder / "meta.json").read_text())
    meta["state_bytes"] = (folder / "state.pt").stat().st_size
    meta["state_sha256"] = checkpoint._sha256(folder / "state.pt")
    (folder / "meta.json").write_text(json.dumps(checkpoint.sealed(meta)))
    with pytest.raises(ValueError, match="is damaged"):
        checkpoint.load(folder, CONFIG, "manifest")
    assert "executed" not in capsys.readouterr().out


def test_writer_saves_the_step_asked_for(tmp_path: Path) -> None:
    """Training continues while the file is written: what is saved is the state at the call."""
    writer = CheckpointWriter(tmp_path, CONFIG, "manifest")
    live = state(1)
    writer.write(live, Progress(1), is_best=True)
    live["separator"]["module"]["weight"].fill_(2)
    writer.wait()
    loaded, _ = checkpoint.load(tmp_path / "step-00000001", CONFIG, "manifest")
    assert float(loaded["separator"]["module"]["weight"][0]) == 1
    assert checkpoint.best(tmp_path) == tmp_path / "best-00000001"


def test_the_outcome_of_a_validation_enters_the_checkpoint_of_its_step(tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path, CONFIG, "manifest")
    writer.write(state(1), Progress(4, validation_pending=True), is_best=False)
    assert writer.amend(Progress(4, best_score=1.5, best_step=4), is_best=True)
    for folder in (tmp_path / "step-00000004", tmp_path / "best-00000004"):
        loaded, progress = checkpoint.load(folder, CONFIG, "manifest")
        assert progress == Progress(4, best_score=1.5, best_step=4)
        assert float(loaded["separator"]["module"]["weight"][0]) == 1
    assert not writer.amend(Progress(6), is_best=True)  # no such checkpoint
    assert checkpoint.best(tmp_path) == tmp_path / "best-00000004"


def test_due_by_steps_or_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("ialcms.runs.checkpoint_writer.time.monotonic", lambda: now)
    config = small_config(train={"checkpoint_every": 100, "checkpoint_minutes": 2})
    writer = CheckpointWriter(tmp_path, config, "manifest")
    assert writer.is_due(100)
    assert not writer.is_due(101)
    assert not writer.is_overdue()
    now = 121.0
    assert writer.is_overdue()
    writer.write(state(1), Progress(101), is_best=False)
    assert not writer.is_overdue()
    writer.wait()


def test_failed_writes_warn_and_three_in_a_row_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    writer = CheckpointWriter(tmp_path, CONFIG, "manifest")
    writer.write(state(2), Progress(2), is_best=False)
    writer.wait()
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as full:
        full.setattr("ialcms.runs.checkpoint_writer.shutil.disk_usage", lambda _: usage._replace(free=10))
        for step in (4, 6):
            writer.write(state(step), Progress(step), is_best=False)
            writer.wait()
            assert not writer.failed_for_good
    assert "the checkpoint of step 4 could not be written" in caplog.records[0].getMessage()
    assert "MB are free" in caplog.records[0].getMessage()
    assert checkpoint.newest_intact(tmp_path) == tmp_path / "step-00000002"  # the old one is kept
    writer.write(state(8), Progress(8), is_best=False)  # there is room again: the count starts anew
    writer.wait()
    for step in (10, 12, 14):
        assert not writer.failed_for_good
        monkeypatch.setattr("ialcms.runs.checkpoint.torch.save", _broken_disk)
        writer.write(state(step), Progress(step), is_best=False)
        writer.wait()
    assert writer.failed_for_good
    assert "no space left" in writer.last_failure


def _broken_disk(*args: object) -> None:
    raise OSError("no space left")
