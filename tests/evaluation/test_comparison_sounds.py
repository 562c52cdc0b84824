"""The examples of a comparison: the same mixes as two runs separate them, in the page and in a real browser."""

from __future__ import annotations

import base64
import html
import io
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from ialcms.cli import main
from ialcms.runs.run_folder import RunFolder
from tests.support.browser import CONTRASTS, chromium, collect_problems
from tests.support.evaluation import evaluation_config, make_run, write_evaluation_shards

SOUNDS = ("A: small", "A: small, best protocol", "B: small", "B: small, best protocol")


@dataclass(frozen=True)
class Compared:
    runs: tuple[RunFolder, RunFolder]
    page: Path


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    """Two separators of other weights, evaluated on the same 12 mixes; their reports show all of them."""
    folder = tmp_path_factory.mktemp("compared")
    manifest = write_evaluation_shards(folder / "shards")
    config = evaluation_config(folder / "shards", eval={"examples": 12})
    runs = tuple(make_run(folder / name, config, manifest, seed=seed) for seed, name in enumerate(("one", "two")))
    for run in runs:
        assert main(["evaluate", str(run.path), "--metrics", "fast"]) == 0
    page = folder / "comparison.html"
    assert compare(runs, page, "eval.examples=7") == 0
    return Compared(runs, page)


def compare(runs: tuple[RunFolder, RunFolder], page: Path, *overrides: str) -> int:
    return main(["evaluate", "--compare", *(str(run.path) for run in runs), "--out", str(page), *overrides])


def articles(page: Path) -> dict[int, str]:
    """The examples' markup by the number of their mix."""
    found = re.findall(r"<article.*?</article>", page.read_text(), re.DOTALL)
    return {int(re.search(r"mix (\d+)", article).group(1)): article for article in found}  # type: ignore[union-attr]


def sounds(article: str) -> dict[str, np.ndarray]:
    """Samples by the sound's name without the example's number, relative to the loudest of the mix."""
    found = re.findall(
        r'data-sound="data:audio/wav;base64,([^"]+)".*?aria-label="Play ([^"]*), example', article, re.DOTALL
    )
    waves = {html.unescape(name): soundfile.read(io.BytesIO(base64.b64decode(text)))[0] for text, name in found}
    peak = np.abs(waves["mix"]).max()
    return {name: wave / peak for name, wave in waves.items()}


def test_each_run_is_heard_as_in_its_own_report(compared: Compared) -> None:
    examples = articles(compared.page)
    assert len(examples) == 3  # of 7, shared by two runs
    reports = [articles(run.path / "evaluation" / "test-2mix" / "report.html") for run in compared.runs]
    for mix, article in examples.items():
        heard = sounds(article)
        instruments = re.findall(r'<h4 id="[^"]*">(\w+)</h4>', article)
        assert set(heard) == {"mix"} | {f"{role} of {name}" for name in instruments for role in ("reference", *SOUNDS)}
        for letter, report in zip("AB", reports):
            own = sounds(report[mix])
            for name in instruments:
                for ours, theirs in (("", "estimate"), (", best protocol", "best protocol")):
                    difference = heard[f"{letter}: small{ours} of {name}"] - own[f"{theirs} of {name}"]
                    assert np.abs(difference).max() < 2e-3  # 16 bits at another gain
        apart = heard[f"A: small of {instruments[0]}"] - heard[f"B: small of {instruments[0]}"]
        assert np.abs(apart).max() > 0.05


def test_the_scores_stand_beside_the_sounds(compared: Compared) -> None:
    for mix, article in articles(compared.page).items():
        for letter, run in zip("AB", compared.runs):
            rows = (run.path / "evaluation" / "test-2mix" / "mixes.csv").read_text().splitlines()[1:]
            of_mix = [row.split(",") for row in rows if row.split(",")[0] == str(mix)]
            shown = re.findall(rf">{letter}: small</span><span class=\"score-line\">SDR (\S+) ", article)
            expected = [f"{float(row[5]):.1f}" for row in of_mix]
            assert [value.replace("\u2212", "-") for value in shown] == [e.replace("-0.0", "0.0") for e in expected]


def test_without_the_shards_the_page_says_so(compared: Compared, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    page = tmp_path / "page.html"
    assert compare(compared.runs, page, f"data.shards={tmp_path}/none") == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"the page has no sounds: .*{tmp_path}/none.*", lines[-2])
    assert lines[-1] == f"report: {page}"
    assert "There is nothing to listen to:" in page.read_text()
    assert not articles(page)


def test_without_the_checkpoint_the_page_says_so(
    compared: Compared, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    other = RunFolder(shutil.copytree(compared.runs[1].path, tmp_path / "two"))
    shutil.rmtree(other.checkpoints)
    assert compare((compared.runs[0], other), tmp_path / "page.html") == 0
    printed = capsys.readouterr().out
    assert "the page has no sounds: the checkpoint of B: small, step 7, which was evaluated, is not in" in printed


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


def test_each_button_plays_its_own_sound_at_the_common_position(browser: Any, compared: Compared) -> None:
    """Which sound the player gets: Chromium itself plays none of 1 kHz; tests/report hears sounds of 11 kHz."""
    page = browser.new_page()
    problems = collect_problems(page)
    page.goto(compared.page.as_uri())
    assert [each.evaluate("(e) => e.open") for each in page.locator("details").all()] == [True, True, True]
    source = page.locator("#example-1 .part").nth(1)
    title = source.locator("h4").inner_text()
    given = set()
    for role in ("Reference", *SOUNDS):
        sound = source.locator(".sound").filter(has=page.get_by_text(role, exact=True))
        sound.get_by_role("button").click()
        assert page.evaluate("(sound) => player.src === sound.dataset.sound", sound.element_handle())
        given.add(page.evaluate("player.src"))
    assert len(given) == 5
    page.get_by_role("slider", name=f"Position in A: small of {title}, example 1").fill("0.5")
    position = page.get_by_role("slider", name=f"Position in B: small, best protocol of {title}, example 1")
    assert position.input_value() == "0.5"
    page.get_by_role("button", name=f"Heat map of {title}, B: small, example 1").click()
    assert [heat.is_visible() for heat in source.locator(".heat").all()] == [True, False]
    assert not problems
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_of_a_comparison_fits_a_phone(browser: Any, compared: Compared, scheme: str) -> None:
    page = browser.new_page(viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True, color_scheme=scheme)
    page.goto(compared.page.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert [found for found in page.evaluate(CONTRASTS) if found[0] < 4.5] == []
    page.close()
