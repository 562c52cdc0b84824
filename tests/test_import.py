"""`ialcms import`: an authors' checkpoint becomes a run's folder that every verb takes."""

from __future__ import annotations

import argparse
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from PIL import Image

from ialcms.cli import main
from ialcms.config import Config, to_dict
from ialcms.data.manifest import Manifest
from ialcms.models import Critic
from ialcms.published import to_published
from ialcms.runs.checkpoint import load_state, newest, read_meta
from ialcms.runs.run_folder import RunFolder
from ialcms.runs.separators import find_checkpoint
from tests.support.evaluation import evaluation_config, make_separator, write_evaluation_shards

NOT_A_RUN = "is a file of weights, not a run's folder; make one of it: ialcms import"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write_evaluation_shards(tmp_path_factory.mktemp("import") / "shards")


@pytest.fixture(scope="module")
def config(shards: Manifest) -> Config:
    """The networks are narrow, but have all 416 tensors of the published ones."""
    audio = {"num_samples": 630, "log_bins": 64}  # the critic halves 64 x 64 spectrograms four times
    evaluation = {"draws": 1, "seconds": 0.63, "hop": 630, "metrics": "fast"}
    return evaluation_config(shards.folder, audio=audio, train={"steps": 14, "engine": "single"}, eval=evaluation)


@pytest.fixture(scope="module")
def state(config: Config) -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    return to_published(make_separator(config, seed=5), Critic(config.model.critic), checkpoint=True)


@pytest.fixture(scope="module")
def authors(state: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As Lightning writes it, with options of argparse, NumPy and a dictionary with attributes."""
    path = tmp_path_factory.mktemp("authors") / "authors.ckpt"
    with pytest.MonkeyPatch.context() as patch:
        module = types.ModuleType("their_utils")
        module.EasyDict = type("EasyDict", (dict,), {"__module__": "their_utils"})  # type: ignore[attr-defined]
        patch.setitem(sys.modules, "their_utils", module)
        options = module.EasyDict(lr=np.float64(1e-4), mixes=np.int64(2))
        options.lr = 1e-4
        torch.save(
            {
                "state_dict": state | {"net_wrapper.loss.weight": torch.ones(3)},
                "epoch": 3,
                "global_step": 12,
                "hyper_parameters": {"args": argparse.Namespace(num_mix=2, lr=np.float32(1e-4)), "net": options},
            },
            path,
        )
    assert "their_utils" not in sys.modules
    return path


@pytest.fixture(scope="module")
def yaml_file(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(yaml.safe_dump(to_dict(config)))
    return path


@pytest.fixture(scope="module")
def run(authors: Path, yaml_file: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    out = tmp_path_factory.mktemp("runs") / "authors"
    assert main(["import", str(authors), "--config", str(yaml_file), "--out", str(out)]) == 0
    return RunFolder(out)


def test_the_account_names_every_tensor(run: RunFolder, state: dict[str, torch.Tensor], authors: Path) -> None:
    account = json.loads((run.path / "import.json").read_text())
    assert len(account["matched"]) == 416
    assert account["matched"].keys() == state.keys()
    assert account["unexpected"] == ["net_wrapper.loss.weight"]
    assert account["missing"] == account["misshapen"] == []
    assert (account["source"], account["step"], account["notes"]) == (authors.name, 12, ["took 'state_dict'"])


def test_what_is_printed(authors: Path, yaml_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["import", str(authors), "--config", str(yaml_file), "--out", str(tmp_path / "run"), "train.steps=10"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "416 of 416 tensors matched, by published names" in printed
    assert "left out: 1 tensors that these networks do not have, like net_wrapper.loss.weight" in printed
    assert "step 12 of 10; optimizers and memory bank are new" in printed
    assert "raise train.steps above 12, or import again with --step 0" in printed
    assert main(words) == 2
    assert "is there already; give another folder with --out" in capsys.readouterr().err


def test_every_verb_takes_the_run(run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(run.path)
    assert main(["evaluate", path, "--out", str(tmp_path / "scores")]) == 0
    assert main(["evaluate", "--compare", str(tmp_path / "scores"), str(tmp_path / "scores")]) == 0
    assert "B  small, step 12" in capsys.readouterr().out
    assert main(["checkpoint", "show", path]) == 0
    assert "finished steps   12" in capsys.readouterr().out

    soundfile.write(tmp_path / "mix.wav", 0.1 * np.random.default_rng(0).standard_normal(2_000), 1_000)
    Image.new("RGB", (40, 30), "brown").save(tmp_path / "violin.png")
    Image.new("RGB", (40, 30), "grey").save(tmp_path / "flute.png")
    words = ["separate", str(tmp_path / "mix.wav"), "--checkpoint", path, "--out", str(tmp_path / "separated")]
    assert main([*words, "--pictures", str(tmp_path / "violin.png"), str(tmp_path / "flute.png")]) == 0
    assert len(list((tmp_path / "separated").glob("*.wav"))) == 3  # two stems and the remainder
    assert main(["export", path, "--out", str(tmp_path / "separator.pt")]) == 0


def test_exported_again_all_tensors_are_equal(run: RunFolder, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    assert main(["checkpoint", "export", str(run.path), "--out", str(tmp_path / "again.ckpt")]) == 0
    again = torch.load(tmp_path / "again.ckpt", weights_only=True)
    assert again["global_step"] == 12
    assert again["state_dict"].keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in again["state_dict"].items())


def test_training_resumes_at_its_step(authors: Path, yaml_file: Path, tmp_path: Path, shards: Manifest) -> None:
    run = RunFolder(tmp_path / "run")
    assert main(["import", str(authors), "--config", str(yaml_file), "--out", str(run.path)]) == 0
    imported = load_state(newest(run.checkpoints) or run.path)
    assert imported["separator"]["optimizer"]["state"] == {}
    assert main(["train", str(run.config), "--folder", str(run.path)]) == 0
    assert "from step 12 of 14" in run.log.read_text()
    last = newest(run.checkpoints)
    assert last is not None
    meta, trained = read_meta(last), load_state(last)
    assert (meta["progress"]["step"], meta["manifest_digest"]) == (14, shards.digest)
    moved = [
        name
        for name, value in trained["separator"]["module"].items()
        if not torch.equal(value, imported["separator"]["module"][name])
    ]
    assert "mask_scale" in moved
    assert find_checkpoint(run.path).name == "best-00000014"  # the imported one has no score


def test_a_file_in_the_place_of_a_run(authors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mix.wav").touch()
    for words in (
        ["evaluate", str(authors)],
        ["separate", str(tmp_path / "mix.wav"), "--checkpoint", str(authors), "--pictures", "violin.png"],
        ["export", str(authors), "--out", str(tmp_path / "x.pt")],
        ["checkpoint", "show", str(authors)],
        ["checkpoint", "diff", str(authors), str(authors)],
        ["checkpoint", "export", str(authors), "--out", str(tmp_path / "x.ckpt")],
        ["evaluate", "--compare", str(authors), str(authors)],
    ):
        assert main(words) == 2
        line = capsys.readouterr().err
        assert f"{authors} {NOT_A_RUN} {authors} --config duet --out runs/authors" in line, words
        assert line.count("\n") == 1


def test_checkpoint_of_evaluate_and_resume(
    run: RunFolder, authors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run.path), "--checkpoint", str(authors), "--out", str(tmp_path / "x")]) == 2
    assert NOT_A_RUN in capsys.readouterr().err
    assert main(["train", str(run.config), "--folder", str(tmp_path / "new"), "--resume", str(authors)]) == 2
    assert NOT_A_RUN in capsys.readouterr().err


class _TheirOptions:
    pass


def test_what_is_refused(
    state: dict[str, torch.Tensor], yaml_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a line, and nothing is written."""
    scale = "net_wrapper.av_separator.separator_w_v.scale"
    for content, message in (
        ({"state_dict": {**state, scale: torch.zeros(2)}}, "1 misshapen: net_wrapper.av_separator.separator_w_v.scale"),
        ({"state_dict": {scale: state[scale]}}, "do not fit this configuration: 1 tensors matched"),
        ({"state_dict": {**state, scale: torch.full((1,), float("nan"))}}, "values that are not numbers (mask_scale)"),
        ({"state_dict": state, "options": _TheirOptions()}, "torch.save(torch.load(FILE, weights_only=False)["),
        ([1], "holds no state_dict of tensors"),
    ):
        torch.save(content, tmp_path / "x.ckpt")
        words = ["import", str(tmp_path / "x.ckpt"), "--config", str(yaml_file), "--out", str(tmp_path / "run")]
        assert main(words) == 2
        line = capsys.readouterr().err
        assert message in line
        assert line.count("\n") == 1
        assert [path.name for path in tmp_path.iterdir()] == ["x.ckpt"]
    assert main(["import", str(tmp_path), "--config", str(yaml_file), "--out", str(tmp_path / "run")]) == 2
    assert "is a folder; give a file of weights" in capsys.readouterr().err


def test_a_separator_alone(
    state: dict[str, torch.Tensor], yaml_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also an export of ours: the critic is new."""
    torch.save({name: value for name, value in state.items() if "av_separator" in name}, tmp_path / "x.pt")
    assert main(["import", str(tmp_path / "x.pt"), "--config", str(yaml_file), "--out", str(tmp_path / "a")]) == 0
    assert "not in the file: the critic" in capsys.readouterr().out
    assert main(["export", str(tmp_path / "a"), "--out", str(tmp_path / "ours.pt")]) == 0
    assert main(["import", str(tmp_path / "ours.pt"), "--config", str(yaml_file), "--out", str(tmp_path / "b")]) == 0
    assert "tensors matched, by names of this program" in capsys.readouterr().out
    one, other = (load_state(find_checkpoint(tmp_path / name))["separator"]["module"] for name in "ab")
    assert all(torch.equal(value, other[name]) for name, value in one.items())
