"""The page of several runs side by side."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ialcms.cli import main
from tests.evaluation.test_compare import write_evaluation

LEVELS = {"a": 0.0, "b": 0.5, "c": -1.0}


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    """Mix 4 is silent in the second run."""
    folders = []
    for name, level in LEVELS.items():
        gain = dict.fromkeys(("cello", "flute", "tuba"), level)
        silent = (4,) if name == "b" else ()
        folders.append(write_evaluation(tmp_path / name, gain, silent=silent, state_sha256="abc"))
    return list(map(str, folders))


def test_runs_side_by_side(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "pages" / "comparison.html"
    assert main(["evaluate", "--compare", *runs, "--out", str(page)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("B - A") == 4  # overall and per instrument, of b and of c
    assert printed.splitlines()[-1] == f"report: {page}"
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page.read_text()))
    assert "29 of 30 are scored by all runs" in text
    for shown in ("Compared: a, b, c", "A: a", "C: c", "B − A (dB) 0.50", "C − A (dB) −1.00", "Unprocessed mix"):
        assert shown in text.replace("B - A", "B − A").replace("C - A", "C − A"), shown
    assert text.count("published on MUSIC, 2-mix") == 2
    bars = re.findall(r'<rect class="series-(\d)" x=', page.read_text())
    assert bars == ["0", "1", "2"] * 6  # three instruments, twice


def test_without_out_nothing_is_written(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert main(["evaluate", "--compare", *runs[:2]]) == 0
    assert "report:" not in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--compare", "a"], "--compare takes two runs or more"),
        (["--compare", "a", "b", "--out", "page"], "name the page to write, like comparison.html"),
        (["--compare", "a", "b", "--report"], "takes no --report"),
        (["--compare", *["a"] * 7, "--out", "page.html"], "7 runs are given; a page compares 6 at most"),
    ],
)
def test_what_cannot_be_compared(
    runs: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*.html"))
