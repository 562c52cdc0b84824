"""Two evaluations side by side, and the published figures beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from ialcms.cli import main
from ialcms.config import to_dict
from ialcms.evaluation.compare import compare
from ialcms.evaluation.metrics import METRICS, MixScores
from ialcms.evaluation.published_scores import PUBLISHED, published_tables
from ialcms.evaluation.result_files import write_results
from ialcms.evaluation.results import MixResult, summarise
from tests.support.evaluation import evaluation_config

_SUMMARY = {"step": 7, "num_sources": 2, "manifest": "abc", "seconds": 6.0, "hop": 11_025, "metrics": "mir_eval"}
PAIRS = [("cello", "flute"), ("cello", "tuba"), ("flute", "tuba")]


def write_evaluation(
    folder: Path,
    gain: dict[str, float],
    jitter: float = 0.0,
    silent: tuple[int, ...] = (),
    first_start: int = 0,
    **options: object,
) -> Path:
    """30 mixes of very different difficulty; gain: what every instrument has above the common level."""
    level = 5 * np.random.default_rng(0).standard_normal(30)
    noise = jitter * np.random.default_rng(1).standard_normal((30, 2))
    results = []
    for index in range(30):
        names = PAIRS[index % 3]
        values = [level[index] + gain[name] + noise[index, position] for position, name in enumerate(names)]
        sources = tuple({} if index in silent else dict.fromkeys(METRICS, value) for value in values)
        keys = tuple(f"{name}_{index}" for name in names)
        problem = "silent estimate 1" if index in silent else ""
        results.append(MixResult(index, names, keys, (0, 1), (first_start, 0), MixScores(sources, problem)))
    write_results(folder, summarise(results), _SUMMARY | {"run": folder.name} | options)
    return folder


@pytest.fixture
def a(tmp_path: Path) -> Path:
    return write_evaluation(tmp_path / "a", {"cello": 0.0, "flute": 0.0, "tuba": 0.0}, silent=(4,))


def test_paired_difference(a: Path, tmp_path: Path) -> None:
    """A small gain shows although the mixes differ by far more: the mixes are the same ones."""
    b = write_evaluation(tmp_path / "b", {"cello": 0.5, "flute": 0.5, "tuba": -0.4}, jitter=0.1, silent=(4, 9))
    found = compare(a, b)
    assert found.num_mixes == 30
    assert found.overall.num_mixes == 28
    assert found.overall.difference["SDR"] == pytest.approx(0.2, abs=0.06)
    low, high = found.overall.intervals["SDR"]
    assert 0 < low < 0.2 < high < 0.4
    assert found.per_instrument["tuba"].difference["SIR"] == pytest.approx(-0.4, abs=0.1)
    assert found.per_instrument["cello"].intervals["SDR"][0] > 0.3
    # both means over the mixes that both scored
    assert found.overall.b["SDR"] - found.overall.a["SDR"] == pytest.approx(found.overall.difference["SDR"])
    assert compare(b, a).overall.difference["SDR"] == pytest.approx(-found.overall.difference["SDR"])


def test_text(a: Path, tmp_path: Path) -> None:
    b = write_evaluation(tmp_path / "b", {"cello": 0.5, "flute": 0.5, "tuba": -0.5})
    lines = str(compare(a, b)).splitlines()
    assert lines[0] == f"A  a, step 7  ({a})"
    assert lines[2] == "29 of 30 mixes are scored in both"
    difference = next(line for line in lines if line.startswith("B - A"))
    assert difference.split()[3:] == [f"{compare(a, b).overall.difference['SDR']:+.2f}"] * 5
    tuba = next(line for line in lines if line.startswith("tuba")).split()
    assert tuba[3:] == ["-0.50", "-0.50", "to", "-0.50"]
    assert f"{'IAL-CMS, supervised':<36}   12.26   17.93   15.40" in lines
    assert f"{'FCSN':<36}    6.39   10.14       -" in lines
    assert "published, MUSIC, 3-mix (dB)" not in "\n".join(lines)


def test_nothing_scored_in_both(tmp_path: Path) -> None:
    level = {"cello": 0.0, "flute": 0.0, "tuba": 0.0}
    everything = tuple(range(30))
    a, b = (write_evaluation(tmp_path / name, level, silent=everything) for name in "ab")
    text = str(compare(a, b))
    assert "0 of 30 mixes are scored in both" in text


def test_other_mixes(a: Path, tmp_path: Path) -> None:
    b = write_evaluation(tmp_path / "b", {"cello": 0.0, "flute": 0.0, "tuba": 0.0}, first_start=1)
    with pytest.raises(ValueError, match=r"are of different mixes: evaluate both with the same shards .* --mixes "):
        compare(a, b)


@pytest.mark.parametrize(
    ("option", "message"),
    [({"manifest": "abd"}, "are of other shards"), ({"seconds": 3.0}, "are of mixes of 6.0 and 3.0 s: evaluate both")],
)
def test_other_sounds_of_the_same_mixes(a: Path, tmp_path: Path, option: dict, message: str) -> None:
    b = write_evaluation(tmp_path / "b", {"cello": 0.0, "flute": 0.0, "tuba": 0.0}, **option)
    with pytest.raises(ValueError, match=message):
        compare(a, b)


def test_other_ways_to_the_scores_are_said(a: Path, tmp_path: Path) -> None:
    b = write_evaluation(tmp_path / "b", {"cello": 0.0, "flute": 0.0, "tuba": 0.0}, hop=65_535, metrics="fast")
    lines = str(compare(a, b)).splitlines()
    assert lines[2:4] == ["eval.hop differs: A 11025, B 65535", "eval.metrics differs: A mir_eval, B fast"]


def test_command_line_takes_runs(a: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        run = tmp_path / name
        write_evaluation(run / "evaluation" / "test-2mix", {"cello": 0.0, "flute": 0.0, "tuba": 0.0})
        (run / "config.yaml").write_text(yaml.safe_dump(to_dict(evaluation_config())))
    runs = [str(tmp_path / "one"), str(tmp_path / "two")]
    assert main(["evaluate", "--compare", *runs]) == 0
    assert "30 of 30 mixes are scored in both" in capsys.readouterr().out
    assert main(["evaluate", "--compare", *runs, "eval.num_sources=3"]) == 2
    assert "there is no evaluation in" in capsys.readouterr().err
    assert main(["evaluate"]) == 2
    assert "name the run to evaluate" in capsys.readouterr().err


def test_published_figures() -> None:
    assert published_tables(2).keys() == {"MUSIC, 2-mix", "VGGSound-15, 2-mix"}
    assert published_tables(3).keys() == {"MUSIC, 3-mix"}
    assert published_tables(4) == {}
    assert PUBLISHED["MUSIC, 2-mix"]["IAL-CMS, unsupervised"] == (10.22, 17.08, 12.82)
    assert sum(map(len, PUBLISHED.values())) == 19
