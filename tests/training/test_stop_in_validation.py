"""A request to stop in the middle of a validation: obeyed before the validation ends, and nothing is lost."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ialcms.engine import Ranks
from ialcms.runs import checkpoint
from ialcms.training.validation import Validation, most_mixes
from tests.support import ON_CPU, ROOT, wait_for, write_small_config
from tests.support.evaluation import evaluation_config, make_separator, write_evaluation_shards
from tests.training.kill_runs import differences

MANY = ["eval.validation_draws=500", "eval.validation_mixes=5000"]  # minutes, for networks of any size


def validations(folder: Path) -> list[dict]:
    """What was recorded of each validation, without its time."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in row.items() if name != "time"}
        for row in rows
        if any(name.startswith(("validation", "best/")) for name in row)
    ]


@pytest.mark.distributed
def test_a_stop_breaks_a_validation_off_and_the_next_start_repeats_it(demo_shards: Path, tmp_path: Path) -> None:
    config = write_small_config(
        tmp_path / "small.yaml", demo_shards, steps=4, validate_every=2, checkpoint_every=100, visualise_every=0
    )

    def command(name: str, *more: str) -> list[str]:
        launcher = [sys.executable, "-m", "launch.local", "--ranks", "2"]
        return [*launcher, "train", str(config), "--folder", str(tmp_path / name), *more]

    stopped = tmp_path / "stopped" / "checkpoints" / "step-00000002"
    with subprocess.Popen(
        command("stopped", *MANY), cwd=ROOT, env=ON_CPU, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for((stopped / "meta.json").exists, process)  # saved before the validation
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert errors.count("stopping: the run saves and ends after this step; Ctrl-C ends it at once") == 1
    assert "stopping: the validation after step 2 is broken off; a resumed run repeats it" in errors
    assert "stopped on request after step 2; start the run again to resume" in errors
    assert checkpoint.read_meta(stopped)["progress"]["validation_pending"]
    assert validations(tmp_path / "stopped") == []
    assert checkpoint.best(stopped.parent) is None

    for name in ("stopped", "whole"):
        subprocess.run(command(name), cwd=ROOT, env=ON_CPU, check=True, capture_output=True, timeout=600)
    assert differences(tmp_path / "stopped", tmp_path / "whole") == []
    assert validations(tmp_path / "stopped") == validations(tmp_path / "whole")
    ours, theirs = (checkpoint.best(tmp_path / name / "checkpoints") for name in ("stopped", "whole"))
    assert ours is not None
    assert theirs is not None
    assert ours.name == theirs.name
    assert checkpoint.read_meta(ours)["progress"] == checkpoint.read_meta(theirs)["progress"]
    assert not checkpoint.read_meta(ours)["progress"]["validation_pending"]


def test_it_asks_before_every_mix_and_shows_how_far_it_is(tmp_path: Path) -> None:
    manifest = write_evaluation_shards(tmp_path / "shards")
    config = evaluation_config(manifest.folder, eval={"validation_draws": 1})
    validation, separator = Validation(config, manifest, Ranks()), make_separator(config)
    asked, shown = [], []

    def is_stopped() -> bool:
        asked.append(len(shown))
        return len(asked) > 3

    assert validation.run(separator, is_stopped, lambda done, total: shown.append((done, total))) is None
    assert shown == [(0, 6), (1, 6), (2, 6), (3, 6)]
    result = validation.run(separator)
    assert result is not None
    assert result.num_mixes == 6


def test_a_validation_has_a_tenth_of_the_mixes_that_are_trained_in_between(tmp_path: Path) -> None:
    manifest = write_evaluation_shards(tmp_path / "shards")

    def config_of(**values: int):  # type: ignore[no-untyped-def]
        train = {"validate_every": values.pop("validate_every", 0), "global_batch": 8}
        return evaluation_config(manifest.folder, train=train, eval={"validation_draws": 400, **values})

    assert most_mixes(config_of(validate_every=1_000), manifest) == 800
    assert most_mixes(config_of(validate_every=10), manifest) == 50  # the least
    assert most_mixes(config_of(), manifest) == 50  # an epoch: 12 clips, ten times
    assert most_mixes(config_of(validate_every=10, validation_mixes=7), manifest) == 7
    few = Validation(config_of(validation_mixes=12), manifest, Ranks())
    assert few.num_mixes == 12
    result = few.run(make_separator(config_of()))
    assert result is not None
    assert result.per_instrument.keys() == {"bell", "drum", "flute", "harp"}  # from all over the list
