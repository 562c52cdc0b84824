from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from ialcms.config import check_world_size, digest, former_names, from_dict, load_config, to_dict
from tests.support import ROOT, small_config


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configurations_are_valid(path: Path) -> None:
    config = load_config(path)
    assert from_dict(to_dict(config)) == config
    assert load_config(path, ["data.num_mixtures=3"]).data.num_mixtures == 3


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "train: {steps: 10}\noptim: {lr_audio: 1e-4}\n")
    config = load_config(path, ["train.steps=20", "loss.lambda_ind_steps=[1, 2]", "name=other"])
    assert config.train.steps == 20
    assert config.optim.lr_audio == 1e-4  # YAML reads 1e-4 as text
    assert config.loss.lambda_ind_steps == (1, 2)
    assert config.name == "other"


@pytest.mark.parametrize(
    ("text", "folder"),
    [
        ("Bach: Duo", "Bach: Duo"), ("12:30", "12:30"), ("123", "123"), ("a #b", "a #b"), ("#1", "#1"), ("~", "~"),
        ("[br]", "[br]"), ("- dash", "- dash"), ("50%", "50%"), ("true", "true"), ("'quoted: it'", "quoted: it"),
        ('"', '"'), ("a=b", "a=b"), (os.fsdecode(b"caf\xe9"), os.fsdecode(b"caf\xe9")),
    ],
)  # fmt: skip
def test_overrides_that_are_texts_stay_as_they_are(tmp_path: Path, text: str, folder: str) -> None:
    config = load_config(write(tmp_path, ""), [f"data.shards={text}", "train.steps=7"])
    assert (config.data.shards, config.train.steps) == (folder, 7)
    assert load_config(write(tmp_path, yaml.safe_dump(to_dict(config)))) == config  # as a run's folder keeps it


def test_a_file_of_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes("name: h\u00f6rn".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.yaml is not valid YAML: no text in UTF-8"):
        load_config(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("train: {stepz: 3}", [], "unknown key 'train.stepz'.*did you mean 'steps'"),
        ("trian: {steps: 3}", [], "unknown key 'trian' at the top level.*did you mean 'train'"),
        ("train: 3", [], "'train' must be a section"),
        ("train: [", [], "not valid YAML"),
        ("- 1", [], "must hold a mapping"),
        ("", ["train.steps"], "not an override"),
        ("", ["train.steps=many"], "train.steps is 'many'; it must be a whole number"),
        ("", ["train.steps=true"], "it must be a whole number"),
        ("", ["train.steps=0"], "train.steps is 0; it must be positive"),
        ("", ["optim.lr_audio=-1"], "optim.lr_audio is -1.0; it must be 0 or positive"),
        ("", ["data.gain=[1]"], "data.gain has 1 values; it needs 2"),
        ("", ["data.gain=[2, 1]"], "data.gain"),
        ("", ["data.loader_workers=atuo"], r"'atuo'; it must be a whole number or auto \(did you mean 'auto'"),
        ("", ["data.loader_workers=-1"], "data.loader_workers is -1; it must be 0 or positive"),
        ("", ["data.loader_workers=[auto]"], "it must be a whole number or auto"),
        ("", ["eval.metrics=mir"], "choose auto, mir_eval, fast"),
        ("", ["data.num_objects=3"], "data.num_objects is 3; 2 trains on duets, 1 on supervised solos"),
        ("", ["audio.log_bins=100"], "divisible by 32"),
        ("", ["data.image_crop=300"], "larger than data.image_resize"),
        ("", ["train.precision=fp16"], "choose float32, bf16"),
        ("", ["data.num_mixtures=1", "data.num_objects=1"], "at least two components"),
        ("", ["loss.lambda_avc_steps=[3, 2]"], "give increasing global steps"),
    ],
)
def test_bad_values_are_named_with_the_remedy(tmp_path: Path, text: str, overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        load_config(write(tmp_path, text), overrides)
    assert "\n" not in str(error.value)


def test_a_number_or_a_word(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    assert load_config(path).data.loader_workers == "auto"
    for text, value in (("auto", "auto"), ("0", 0), ("3", 3), ("3.0", 3)):
        config = load_config(path, [f"data.loader_workers={text}"])
        assert config.data.loader_workers == value
        assert from_dict(to_dict(config)) == config
        assert digest(config) == digest(load_config(path))  # it does not change what a step computes


def test_missing_file() -> None:
    with pytest.raises(ValueError, match="does not exist"):
        load_config("configs/none.yaml")


def test_world_size_must_divide_the_batch() -> None:
    config = small_config(train={"global_batch": 6})
    for ranks in (1, 2, 3, 6):
        check_world_size(config, ranks)
    with pytest.raises(ValueError, match=r"6, which 4 ranks cannot share evenly; use 1, 2, 3, 6 ranks"):
        check_world_size(config, 4)


def test_digest_follows_what_a_step_computes() -> None:
    base = digest(small_config())
    assert digest(small_config(optim={"lr_audio": 2e-4})) != base
    assert digest(small_config(seed=1)) != base
    assert digest(small_config(train={"steps": 7, "log_every": 3}, name="other", eval={"draws": 1})) == base


def test_names_of_before_are_read_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(former_names, "_warned", set())
    path = write(tmp_path, "data: {num_mix: 3}\neval: {num_mix: 3}\n")
    for overrides, mixtures in (([], 3), (["data.num_mix=2"], 2), (["data.num_mixtures=2"], 2)):
        config = load_config(path, overrides)
        assert (config.data.num_mixtures, config.eval.num_sources) == (mixtures, 3)
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["data.num_mix is called data.num_mixtures now", "eval.num_mix is called eval.num_sources now"]
    with pytest.raises(ValueError, match=r"data.num_mix and data.num_mixtures are two names of one field"):
        load_config(write(tmp_path, "data: {num_mix: 3, num_mixtures: 3}\n"))
