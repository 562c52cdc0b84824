"""Names from data in spreadsheets and on terminals."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ialcms.csv_cells import cell_text, text_cell
from ialcms.data.manifest import FILE_NAME, read_manifest
from ialcms.data.mix_list import read_mix_list
from ialcms.evaluation.metrics import METRICS, MixScores
from ialcms.evaluation.result_files import read_results, write_results
from ialcms.evaluation.results import MixResult, summarise
from ialcms.terminal import PlainOutput
from shards.stats import collect_stats, table_csv
from tests.support import ROOT
from tests.support.data import write_shards

EVIL = "=cmd|' /C calc'!A0"
NAMES = (EVIL, "+1+1", "-2", "@SUM(1)", " =1", "\t=1", "\r=1", "＝1", "'=1", "\x1b[2J\x1b[31mviolin")


@pytest.mark.parametrize("name", NAMES)
def test_no_cell_begins_a_formula_or_moves_a_cursor(name: str) -> None:
    cell = text_cell(name)
    assert not cell.lstrip(" ").startswith(("=", "+", "-", "@", "＝"))
    assert cell.isprintable()
    assert cell_text(cell) == name.replace("\t", "\\t").replace("\r", "\\r").replace("\x1b", "\\x1b")


@pytest.mark.parametrize(
    "name", ["violin", "acoustic_guitar", "d'amore", "'quoted'", "a=b", "x-1", "éà", "", "日本", "1-2"]
)
def test_other_names_stay_as_they_are(name: str) -> None:
    assert text_cell(name) == name
    assert cell_text(name) == name


def test_results_are_neutral_and_come_back(tmp_path: Path) -> None:
    scores = MixScores(({metric: -1.5 for metric in METRICS},) * 2)
    results = [
        MixResult(0, (EVIL, "-tuba"), ("-abcdefghij_0", "@x"), (0, 0), (0, 0), scores),
        MixResult(1, (EVIL, "-tuba"), ("=y", "+z"), (1, 2), (3, 4), MixScores(({}, {}), "=silent")),
    ]
    write_results(tmp_path, summarise(results), {"run": "r", "step": 1})
    cells = [cell for path in tmp_path.glob("*.csv") for row in csv.reader(path.open()) for cell in row]
    dangerous = [cell for cell in cells if cell.startswith(("=", "+", "@", "-")) and not _is_number(cell)]
    assert dangerous == []
    assert "-1.500000" in cells  # figures are figures
    assert read_results(tmp_path)[1] == results


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def test_an_evaluations_list_names_such_clips_again(tmp_path: Path) -> None:
    manifest = write_shards(tmp_path, [5])
    path = tmp_path / FILE_NAME
    path.write_text(path.read_text().replace('"bell_000"', '"-bell_000"'))
    manifest = read_manifest(tmp_path)
    for first in ("-bell_000", "'-bell_000"):
        (tmp_path / "m.csv").write_text(f"mix,clip\n0,{first}\n0,drum_001\n")
        assert read_mix_list(tmp_path / "m.csv", manifest)[0].clips == (0, 1)


def test_stats_in_csv(tmp_path: Path) -> None:
    write_shards(tmp_path, [5])
    path = tmp_path / FILE_NAME
    path.write_text(path.read_text().replace('"bell"', json.dumps(EVIL)))
    assert b"'=cmd" in table_csv(collect_stats(read_manifest(tmp_path)))


def test_terminals_get_no_control_characters(tmp_path: Path) -> None:
    """Of a real process, on both streams: an instrument's name that clears the screen."""
    write_shards(tmp_path, [5])
    path = tmp_path / FILE_NAME
    path.write_text(path.read_text().replace('"bell"', json.dumps("\x1b[2J\x9bm\u202ebell")))
    for arguments in (["stats", str(tmp_path)], ["verify", str(tmp_path), "--jobs", "1"], ["stats", "\x1b[31mx"]):
        result = subprocess.run(
            [sys.executable, "-m", "ialcms", "data", *arguments], cwd=ROOT, capture_output=True, check=False
        )
        output = (result.stdout + result.stderr).decode()
        assert output
        assert not set(output) & set("\x1b\x9b\u202e"), output
        assert "Traceback" not in output
    assert "\\x1b[31mx" in output


def test_what_a_stream_passes_on() -> None:
    stream = io.StringIO()
    plain = PlainOutput(stream)
    for text in ("\r\x1b[Kline\n", "\r 50%|##| x", "a\rb\x07\n"):
        plain.write(text)
    assert stream.getvalue() == "\r\x1b[Kline\n\r 50%|##| xa\\rb\\x07\n"
    assert not plain.isatty()
