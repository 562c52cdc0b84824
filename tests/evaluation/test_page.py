"""What the page of an evaluation says, without its examples."""

from __future__ import annotations

import html
import os
import re
from pathlib import Path

import pytest

from ialcms.evaluation.metrics import MixScores
from ialcms.evaluation.page import write_evaluation_page
from ialcms.evaluation.result_files import SUMMARY
from ialcms.evaluation.results import MixResult, summarise

ABOUT = {
    "run": "duet",
    "step": 12_000,
    "split": "test",
    "num_sources": 2,
    "data_set": "music",
    "manifest": "0123456789abcdef",
    "state_sha256": "fedcba9876543210" * 4,
    "seconds": 6.0,
    "hop": 11_025,
    "metrics": "mir_eval",
}


def scores(sdr: float) -> dict[str, float]:
    return {"SDR": sdr, "SIR": sdr + 5, "SAR": sdr + 2, "SDRi": sdr - 0.5, "SIRi": sdr + 4}


@pytest.fixture
def text(tmp_path: Path) -> str:
    """Of the page, without markup: three mixes of a guitar, one of which is silent."""
    results = []
    for index, (a, b) in enumerate(((4.0, 6.0), (5.0, 7.0), (0.0, 0.0))):
        of_mix = MixScores((scores(a), scores(b))) if a else MixScores(({}, {}), "silent estimate 1")
        names, keys = ("acoustic_guitar", "violin"), (f"acoustic_guitar_{index}", f"violin_{index}")
        results.append(MixResult(index, names, keys, (0, 0), (0, 0), of_mix))
    (tmp_path / SUMMARY).write_text("{}")
    os.utime(tmp_path / SUMMARY, (1_700_000_000,) * 2)
    page = write_evaluation_page(tmp_path / "report.html", ABOUT, 11_025, figures=summarise(results), examples=[])
    body = page.read_text().partition("<body>")[2].partition("<script>")[0]
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body)))


def test_the_header_says_what_was_evaluated(text: str) -> None:
    header = text.partition("Charts")[0]
    for fact in (
        "Evaluated 14 November 2023, 22:13 UTC",
        "Checkpoint step 12,000, fedcba987654",
        "Data set music, manifest 0123456789ab",
        "Mixes 6 s, windows every 11,025 samples",
        "mixes not scored 1",
    ):
        assert fact in header, fact


def test_the_run_stands_beside_baseline_and_published_figures(text: str) -> None:
    assert "duet (this run) 5.50 10.50 7.50 " in text
    assert "Unprocessed mix (baseline) 0.50 1.00 " in text  # SDR less SDRi, SIR less SIRi
    assert "IAL-CMS, unsupervised, published on MUSIC, 2-mix 10.22 17.08 12.82" in text
    assert "3-mix" not in text


def test_instruments_and_kinds_of_mix(text: str) -> None:
    assert re.search(r"SDR of each instrument .* violin 6\.5 dB acoustic guitar 4\.5 dB", text)
    kind = re.search(r"Per kind of mix .*? acoustic guitar \+ violin ([^A-Za-z]*) to ", text)
    assert kind is not None
    assert kind.group(1).split() == ["5.00", "5.50", "5.00"]  # SDRi, SDR, and where its interval begins
    tables = text.partition("Per instrument")[2]
    assert "acoustic_guitar" not in tables.partition("Not scored")[0]
    assert "acoustic_guitar_2 + violin_2 silent estimate 1" in tables  # names of clips are as they are
