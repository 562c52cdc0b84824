"""`ialcms configs`, and the names of the program's own files."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from ialcms.cli import main
from ialcms.config import Config, flatten, from_dict, load_config, to_dict
from ialcms.config_tool import list_configs, show_config, show_fields
from ialcms.engine.deepspeed_settings import read_settings
from ialcms.own_files import find_own
from ialcms.runs.run_folder import RunFolder
from shards.datasets import load_dataset
from tests.support import ROOT

# What a resumed run may change outside of `eval`: nothing else may be added without a look at what a step computes.
CHANGE_NO_STEP = {
    "name", "data.shards", "data.loader_workers", "data.prefetch", "data.max_bad_fraction", "train.steps",
    "train.engine", "train.validate_every", "train.checkpoint_every", "train.checkpoint_minutes",
    "train.keep_checkpoints", "train.log_every", "train.visualise_every", "train.deepspeed_config",
    "train.max_skipped_steps", "train.timeout_s", "train.check_every", "train.cudnn_benchmark", "train.compile",
    "train.cuda_graphs", "model.visual.weights",
}  # fmt: skip


def test_names_and_paths_mean_the_same_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = load_config(ROOT / "configs" / "duet.yaml")
    assert load_config("duet") == load_config("configs/duet.yaml") == expected
    (tmp_path / "demo").mkdir()  # a run's folder, say
    assert load_config("demo").name == "demo"
    assert load_dataset("music") == load_dataset("configs/datasets/music.yaml")
    for name, stage in (("zero3", 3), ("configs/deepspeed/zero1.json", 1), (Config().train.deepspeed_config, 2)):
        config = from_dict({"train": {"deepspeed_config": name}})
        assert read_settings(config, 1)["zero_optimization"]["stage"] == stage


def test_ones_own_file_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "duet.yaml").write_text("name: mine")
    assert load_config("configs/duet.yaml").name == "mine"
    assert load_config("duet").name == "duet"  # a name is the program's own
    (tmp_path / "duet").write_text("name: a file of that name")
    assert load_config("duet").name == "a file of that name"


@pytest.mark.parametrize("text", ["configs/../setup.py", "../configs/duet.yaml", "duet.yaml", "none", "/duet", "."])
def test_nothing_else_is_found(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_own(text, "configs", ".yaml") == Path(text)
    with pytest.raises(
        ValueError, match=r"does not exist; give a YAML file or one of the names audioset, demo, .*solo"
    ):
        load_config(text)


def test_every_configuration_is_listed_with_a_sentence() -> None:
    listed = list_configs()
    for path in [*(ROOT / "configs").glob("*.yaml"), *(ROOT / "configs" / "datasets").glob("*.yaml")]:
        assert re.search(rf"^  {path.stem} +[A-Z\"].{{20,}}[a-z)\d]$", listed, re.MULTILINE), path


@pytest.mark.parametrize("name", ["duet", "demo_solo"])
def test_what_is_shown_is_the_whole_configuration(name: str) -> None:
    shown = show_config(name, ["train.steps=7"])
    assert from_dict(yaml.safe_load(shown)) == load_config(name, ["train.steps=7"])
    assert len(shown.splitlines()) >= len(flatten(to_dict(Config())))  # a line for each


def test_every_field_has_a_meaning() -> None:
    first, *lines = show_fields().splitlines()
    assert first.startswith("*")
    names = [line[2:].partition(" = ")[0] for line in lines if not line.startswith("      ")]
    assert names == list(flatten(to_dict(Config())))
    starts = [number for number, line in enumerate(lines) if not line.startswith("      ")]
    assert all(lines[number + 1].startswith("      ") for number in starts)
    assert "  data.num_mixtures = 2  (more than 0, at most 1,000)\n      M, mixtures per mix" in "\n".join(lines)
    free = {line[2:].partition(" = ")[0] for line in lines if line.startswith("*")}
    assert {name for name in free if not name.startswith("eval.")} == CHANGE_NO_STEP


def test_copies_are_whole_and_replace_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["configs", "copy", str(tmp_path / "new")]) == 0
    for name in ("configs", "slurm"):
        assert _contents(tmp_path / "new" / name) == _contents(ROOT / name)
    assert main(["configs", "copy", str(tmp_path / "new")]) == 0  # nothing to do
    (tmp_path / "new" / "configs" / "duet.yaml").unlink()
    (tmp_path / "new" / "slurm" / "train.sbatch").write_text("mine")
    capsys.readouterr()
    assert main(["configs", "copy", str(tmp_path / "new")]) == 2
    assert re.fullmatch(r"ialcms: error: \S+train.sbatch is there already and differs; .*\n", capsys.readouterr().err)
    assert not (tmp_path / "new" / "configs" / "duet.yaml").exists()
    (tmp_path / "file").touch()
    assert main(["configs", "copy", str(tmp_path / "file")]) == 2


def test_shards_of_a_run_are_found_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("here/shards", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    config = load_config("duet", ["data.shards=shards"])
    run = RunFolder(tmp_path / "run")
    run.create(config, 1)
    assert run.read_config() == config
    monkeypatch.chdir(tmp_path / "elsewhere")
    there = dataclasses.replace(config.data, shards=str(tmp_path / "here" / "shards"))
    assert run.read_config() == dataclasses.replace(config, data=there)
    assert run.read_config(["data.shards=none"]).data.shards == "none"  # as it was asked for
    (tmp_path / "elsewhere" / "shards").mkdir()
    assert run.read_config() == config


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
