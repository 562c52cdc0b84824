"""Numbers in a configuration that nobody can mean: refused by name, before memory is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from ialcms.config import load_config
from ialcms.models.build import build_networks
from tests.support import ROOT, small_config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train.global_batch=1000000000000",
            r"train.global_batch is 10{12}; the largest value that makes sense is 10{6}",
        ),
        (
            "train.steps=1" + "0" * 400,
            r"train.steps is a whole number of \d+ bits; give a number that 64 bits can hold",
        ),
        ("train.steps=" + "9" * 5_000, "train.steps is .*; it must be a whole number"),
        ("train.steps=0x" + "f" * 9_000, r"train.steps is a whole number of 36000 bits"),
        ("train.steps=1e400", "train.steps is .*must be a whole number"),
        ("train.steps=-1" + "0" * 60, "give a number that 64 bits can hold"),
        ("optim.lr_audio=.nan", "optim.lr_audio is nan; it must be a number"),
        ("optim.lr_audio=.inf", "optim.lr_audio is inf; it must be a number"),
        ("optim.lr_audio=1e999", "optim.lr_audio is .*; it must be a number"),
        ("optim.lr_audio=1" + "0" * 400, "optim.lr_audio is a whole number of"),
        ("data.gain=[0.5,.inf]", "data.gain is inf"),
        ("model.unet.width=1000000000", "model.unet.width is 1000000000; the largest"),
        ("audio.num_samples=100000000000", "audio.num_samples is"),
        ("seed=100000000000000000000", "seed is 100000000000000000000; give a number that 64"),
        ("data.image_resize=10000000", "data.image_resize is"),
        ("name=2024-13-45x: [", "name"),
    ],
)
def test_one_line_names_the_field(override: str, message: str) -> None:
    if message == "name":  # text is text
        assert load_config(ROOT / "configs/demo.yaml", [override]).name == "2024-13-45x: ["
        return
    with pytest.raises(ValueError, match=message) as raised:
        load_config(ROOT / "configs/demo.yaml", [override])
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize("text", ["a: &a [*a]", "train: {steps: *x}", "[1, 2]", "[" * 9_000, "train: 2024-13-45", "\0",
                                  "data: &d {instruments: *d}", "? {a: 1}\n: 2", "x" * 300 + ": 1"])  # fmt: skip
def test_files_that_are_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"c\.yaml") as raised:
        load_config(tmp_path / "c.yaml")
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 500


def test_networks_that_no_machine_holds() -> None:
    config = small_config(model={"unet": {"width": 16_384}, "visual": {"width": 16_384, "weights": "none"}})
    with pytest.raises(ValueError, match=r"the networks need [\d,]+\.\d GB .* this machine has .* lower the widths"):
        build_networks(config)
