"""`ialcms info CONFIG --plan STEP` prints what a step sees."""

from __future__ import annotations

import itertools
import re
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ialcms.cli import main
from ialcms.config import Config, to_dict
from ialcms.data.manifest import Manifest
from ialcms.data.plan import Plan
from ialcms.data.train_batches import train_batches
from tests.support.data import small_config, write_shards


def write_config(path: Path, config: Config, manifest: Manifest) -> str:
    config = replace(config, data=replace(config.data, shards=str(manifest.folder)))
    path.write_text(yaml.safe_dump(to_dict(config)))
    return str(path)


def rows_of(text: str) -> list[list[str]]:
    """Cells of the table, a row per clip of the step."""
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines() if re.match(r"\d+\s", line)]


def test_it_prints_the_plan(shards: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = small_config()
    file = write_config(tmp_path / "c.yaml", config, shards)
    assert main(["info", file, "--plan", "37", "--ranks", "2"]) == 0
    text = capsys.readouterr().out
    assert "step 37, after 37 finished ones: 4 mixes of 2 x 2 clips of 60" in text
    assert f"{shards.digest}), seed 7" in text
    rows = rows_of(text)
    plan = Plan(shards, config.data, config.audio, config.seed, 4)
    planned = [(lane, slot, clip) for lane in range(4) for slot, clip in enumerate(plan.mix(lane, 37).clips)]
    assert len(rows) == len(planned) == 16
    for row, (lane, slot, clip) in zip(rows, planned):
        described = shards.clips[clip.clip]
        end = min(clip.start + 310, described.num_samples)
        assert row == [
            str(lane), str(lane // 2), str(slot // 2 + 1), described.instrument, described.key,
            shards.shards[described.shard].name, f"{clip.start / 1000:.3f}-{end / 1000:.3f}", f"{clip.gain:.3f}",
            f"{clip.row + 1}/3", f"{clip.left},{clip.top}", "yes" if clip.flip else "no",
        ]  # fmt: skip


def test_it_is_what_training_gets_with_replaced_clips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = {"bell_000": {"wav": b"broken"}, "tuba_019": {"npy": b"broken"}}
    manifest = write_shards(tmp_path / "shards", [25, 5, 30], replace=broken)
    config = small_config(max_bad_fraction=1.0)
    with closing(train_batches(config, manifest)) as batches:
        batch = next(batch for batch in itertools.islice(batches, 60) if batch.bad)
    file = write_config(tmp_path / "c.yaml", config, manifest)
    assert main(["info", file, "--plan", str(batch.step), "--read-clips"]) == 0
    text = capsys.readouterr().out
    assert [row[4] for row in rows_of(text)] == [key for keys in batch.keys for key in keys]
    for reason in batch.bad.values():
        assert f": {reason}" in text
    assert main(["info", file, "--plan", str(batch.step)]) == 0
    planned = {row[4] for row in rows_of(capsys.readouterr().out)}
    assert set(batch.bad) & planned


def test_a_step_below_zero(shards: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", write_config(tmp_path / "c.yaml", small_config(), shards), "--plan", "-1"]) == 2
    assert "--plan is -1; steps are counted from 0" in capsys.readouterr().err
