"""The page of a separation, as text and in a real browser."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from ialcms.inference import Box, Separation, listening_page, separate_file
from ialcms.runs.run_folder import RunFolder
from tests.inference.test_separate_file import write_video
from tests.support.browser import CONTRASTS, chromium, collect_problems
from tests.support.evaluation import make_small_run

RATE = 44_100
SECONDS = 5.5  # of 55 frames, whose grey rises from 20 to 236
ATTACK = "<script>alert(1)</script>\" onload='alert(2)'"
BOXES = [Box(2, 2, 30, 30, name="acoustic_guitar"), Box(34, 10, 62, 44, at_s=1.0, name=ATTACK)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_small_run(tmp_path_factory.mktemp("listening"))


@pytest.fixture(scope="module")
def separated(run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Separation:
    folder = tmp_path_factory.mktemp("separated")
    source = write_video(folder / "a <b>.mkv", SECONDS, rate=RATE)
    return separate_file(source, run.path, BOXES, out=folder / "stems")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def open_page(browser: Any, separated: Separation) -> Iterator[Callable[..., Any]]:
    """Opens the page; afterwards nothing may have failed, been blocked or been asked of a network."""
    contexts, requests, problems = [], [], []

    def open_(path: Path | None = None, **options: Any) -> Any:
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(90_000)  # beside other tests, on few cores
        problems.append(collect_problems(page))
        page.on("request", lambda request: requests.append(request.url))
        page.goto((path or separated.page).as_uri())
        page.wait_for_function("() => !playButton.disabled")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not any(problems)
    assert all(url.startswith(("file:", "data:", "blob:")) for url in requests)


def sounds_of(page: Path) -> list[np.ndarray]:
    encoded = re.findall(r' data-sound="([^"]+)"', page.read_text())
    return [soundfile.read(io.BytesIO(base64.b64decode(sound)), always_2d=True)[0] for sound in encoded]


def wait_for_gains(page: Any, *expected: float) -> None:
    """Of what is heard: gains change while sound flows through them, so the sound starts again where it has ended."""
    page.evaluate("isPlaying ? seek(0) : play()")
    page.wait_for_function(
        "(gains) => tracks.every((track, index) => Math.abs(track.gain.gain.value - gains[index]) < 0.01)",
        arg=list(expected),
    )


def test_the_sounds_are_the_stems_at_one_common_gain(separated: Separation) -> None:
    paths = (*separated.stems, separated.remainder)
    waves = [soundfile.read(path, always_2d=True)[0] for path in paths]
    gain = 0.9 / max(np.abs(wave).max() for wave in waves)
    for played, wave in zip(sounds_of(separated.page), waves, strict=True):
        np.testing.assert_allclose(played, min(gain, 10.0) * wave, atol=1e-4)


def test_names_cannot_become_markup(separated: Separation) -> None:
    text = separated.page.read_text()
    assert len(re.findall("<script", text)) == 1
    assert "acoustic guitar" in text
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text).group(1)
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "http" not in policy


def test_the_picture_follows_the_sound(open_page: Callable[..., Any]) -> None:
    page = open_page()
    assert page.evaluate("tracks.map((track) => Math.round(10 * track.buffer.duration))") == [55, 55, 55]
    page.get_by_role("button", name="Play", exact=True).click()
    page.wait_for_function("() => isPlaying && position() > 0.5 && Math.abs(position() - video.currentTime) < 0.1")
    page.get_by_role("slider", name="Position", exact=True).fill("2")
    page.wait_for_function("() => position() > 2 && Math.abs(position() - video.currentTime) < 0.1")
    page.get_by_role("slider", name="Position", exact=True).fill("5")
    page.wait_for_function("() => !isPlaying")  # at the end it stops and goes back
    assert page.evaluate("position()") == 0
    page.get_by_role("slider", name="Position in Original").fill("2.5")  # a spectrogram
    assert page.evaluate("[position(), Math.round(10 * video.currentTime)]") == [2.5, 25]
    grey = page.evaluate(
        """async () => { await new Promise((done) => setTimeout(done, 400));
            const canvas = new OffscreenCanvas(64, 48); const context = canvas.getContext("2d");
            context.drawImage(video, 0, 0, 64, 48); return context.getImageData(55, 40, 1, 1).data[0]; }"""
    )
    assert grey == pytest.approx(20 + 4 * 25, abs=8)  # the frame on the screen at 2.5 s


def test_solo_mix_and_original(open_page: Callable[..., Any]) -> None:
    page = open_page()
    wait_for_gains(page, 1, 1, 1)
    in_picture = page.get_by_role("button", name="Hear 1 acoustic guitar alone, in the picture")
    in_picture.click()
    wait_for_gains(page, 1, 0, 0)
    assert in_picture.get_attribute("aria-pressed") == "true"
    assert page.get_by_text("You hear 1 acoustic guitar alone").first.is_visible()
    original = page.get_by_role("button", name="Hear the original")
    original.click()
    wait_for_gains(page, 1, 1, 1)
    original.click()  # back to what was heard before
    wait_for_gains(page, 1, 0, 0)
    in_picture.click()
    wait_for_gains(page, 1, 1, 1)
    page.get_by_role("slider", name="Volume of Remainder").fill("20")
    page.get_by_role("slider", name="Volume of 1 acoustic guitar").fill("150")
    wait_for_gains(page, 1.5, 1, 0.2)
    original.click()
    wait_for_gains(page, 1, 1, 1)
    page.get_by_role("button", name="All, as mixed").click()
    wait_for_gains(page, 1.5, 1, 0.2)
    page.keyboard.press("2")
    wait_for_gains(page, 0, 1, 0)
    page.keyboard.press("0")
    wait_for_gains(page, 1, 1, 1)


def test_heat_maps_lie_over_their_boxes(open_page: Callable[..., Any]) -> None:
    page = open_page()
    covered = """([x1, y1, x2, y2]) => {
        const { data } = layer.getContext("2d").getImageData(0, 0, 64, 48);
        const any = (x, y) => data[4 * (64 * y + x) + 3] > 0;
        let inside = 0, outside = 0;
        for (let x = 0; x < 64; x++) for (let y = 0; y < 48; y++) {
            const isIn = x > x1 && x < x2 - 1 && y > y1 && y < y2 - 1;
            const isOut = x < x1 - 1 || x > x2 || y < y1 - 1 || y > y2;
            if (any(x, y)) { inside += isIn; outside += isOut; } }
        return [inside, outside]; }"""
    page.get_by_role("button", name="Hear 1 acoustic guitar alone", exact=True).click()
    # the network sees the middle 16 of 20 of the box (2, 2, 30, 30)
    inside, outside = page.evaluate(covered, [4.8, 4.8, 27.2, 27.2])
    assert inside > 200
    assert outside == 0
    box = page.locator(".box").first.bounding_box()
    screen = page.locator(".screen").bounding_box()
    assert (box["x"] - screen["x"]) / screen["width"] == pytest.approx(4.8 / 64, abs=0.01)
    assert box["height"] / screen["height"] == pytest.approx(22.4 / 48, abs=0.02)
    toggle = page.get_by_role("button", name="Heat maps")
    toggle.click()
    assert not page.locator(".heat-layer").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_contrast(open_page: Callable[..., Any], scheme: str) -> None:
    contrasts = open_page(color_scheme=scheme).evaluate(CONTRASTS)
    assert len(contrasts) > 40
    assert [found for found in contrasts if found[0] < 4.5] == []  # WCAG AA


def test_a_phone(open_page: Callable[..., Any]) -> None:
    page = open_page(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.get_by_role("button", name="Hear 1 acoustic guitar alone", exact=True).tap()
    page.get_by_role("button", name="Play", exact=True).tap()
    page.wait_for_function("() => position() > 0.2")
    wait_for_gains(page, 1, 0, 0)


def test_a_sound_by_itself(
    run: RunFolder, tmp_path: Path, open_page: Callable[..., Any], separated: Separation
) -> None:
    """The pictures stand beside the stems; there is no video."""
    Image.fromarray(np.full((40, 30, 3), 90, np.uint8)).save(tmp_path / "bell.png")
    result = separate_file(separated.remainder, run.path, pictures=[tmp_path / "bell.png"], out=tmp_path / "out")
    page = open_page(result.page)
    assert page.locator("video").count() == 0
    assert page.get_by_role("img", name="Heat map of where the separator hears 1 bell").is_visible()
    page.get_by_role("button", name="Play", exact=True).click()
    page.wait_for_function("() => position() > 0.2")


def test_a_long_video_is_shown_in_part(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_video(tmp_path / "long.mkv", SECONDS, rate=RATE)
    monkeypatch.setattr(listening_page, "LONGEST_S", 2.0)
    page = separate_file(source, run.path, BOXES, out=tmp_path / "a").page
    assert {len(sound) for sound in sounds_of(page)} == {2 * RATE}
    assert "the first 0:02 of 0:06" in page.read_text()
    video = base64.b64decode(re.search(r'data-video="([^"]+)"', page.read_text()).group(1))
    with av.open(io.BytesIO(video)) as container:
        assert container.duration / 1e6 == pytest.approx(2.0, abs=0.25)
        assert not container.streams.audio
    monkeypatch.setattr(listening_page, "LARGEST_BYTES", 400_000)
    small = separate_file(source, run.path, BOXES, out=tmp_path / "b").page
    assert 0 < len(sounds_of(small)[0]) < 1.5 * RATE
