"""`ialcms separate` on videos that change on the way: stems and their videos, from the first frame to the last."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch

from ialcms.inference import Box, separate_file
from ialcms.inference.frames import Frames
from ialcms.inference.overlay import _Fit
from ialcms.inference.sound import measure_sound, read_blocks
from ialcms.runs.run_folder import RunFolder
from tests.support.evaluation import RATE, make_small_run
from tests.support.media import Recording, join, pitches, write_media


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_small_run(tmp_path_factory.mktemp("changing"))


def shown(path: Path) -> list[np.ndarray]:
    return [frame.numpy().astype(int) for _, frame in Frames(path)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"size": (128, 96), "layout": "stereo"}, {"size": (64, 48), "layout": "mono"}),
        ({"size": (64, 48), "layout": "mono"}, {"size": (128, 96), "sample_rate": 44_100}),
        ({"size": (64, 48)}, {"size": (48, 64)}),
        ({"pixel_ratio": Fraction(3, 2)}, {"size": (96, 48)}),
    ],
    ids=["smaller", "larger", "upright phone", "other pixels"],
)
def test_stems_and_videos(run: RunFolder, tmp_path: Path, first: dict, second: dict) -> None:
    source = join(tmp_path / "call.mp4", Recording(2, **first), Recording(2, **second))
    boxes = [Box(40, 4, 60, 20, name="early"), Box(2, 2, 20, 20, at_s=3.0, name="late")]
    result = separate_file(source, run.path, boxes, out=tmp_path / "out", device="cpu")
    stems = [soundfile.read(path, always_2d=True) for path in (*result.stems, result.remainder)]
    whole = sum(stem for stem, _ in stems)
    assert pitches(whole[:, 0], stems[0][1]) == [4, 5, 4, 5]
    original = torch.cat(list(read_blocks(source, measure_sound(source, RATE))), 1).numpy().T
    np.testing.assert_allclose(whole, original, atol=1e-5)
    frames = [frame for _, frame in Frames(source)]
    size = frames[0].shape[0] // 2 * 2, frames[0].shape[1] // 2 * 2
    for path in result.videos:
        pictures = shown(path)
        assert [picture.shape for picture in pictures] == [(*size, 3)] * 20
        fitted = _Fit(tuple(frames[15].shape[:2]), size).frame(frames[15]).numpy().astype(int)
        outside = np.abs(pictures[15] - fitted).max(2)
        assert np.median(outside) < 12  # but for the object, what the video shows
        assert outside.max() > 40
        assert measure_sound(path, RATE).seconds == pytest.approx(4.0, abs=0.1)


def test_frames_fit_into_the_first_one() -> None:
    frame = torch.full((64, 48, 3), 200, dtype=torch.uint8)
    fit = _Fit((64, 48), (48, 64))
    fitted = fit.frame(frame)
    assert fitted.shape == (48, 64, 3)
    assert (fitted[:, :14] == 0).all()
    assert (fitted[:, 14:50] == 200).all()
    assert (fitted[:, 50:] == 0).all()
    assert fit.region((0, 0, 48, 64)) == (14, 0, 50, 48)
    odd = _Fit((49, 65), (48, 64))
    torch.testing.assert_close(
        odd.frame(torch.arange(49 * 65 * 3).view(49, 65, 3))[5, 5], torch.tensor([990, 991, 992])
    )
    assert odd.region((1, 2, 3, 4)) == (1, 2, 3, 4)


def test_the_colours_are_those_of_bt709_and_the_file_says_so(run: RunFolder, tmp_path: Path) -> None:
    source = write_media(tmp_path / "a.mkv", Recording(1, video_codec="ffv1"))
    result = separate_file(source, run.path, [Box(30, 30, 40, 40)], out=tmp_path / "out", device="cpu")
    with av.open(str(result.videos[0])) as container:
        context = container.streams.video[0].codec_context
        declared = context.colorspace, context.color_primaries, context.color_trc, context.color_range
        frame = next(container.decode(video=0))
    assert declared == (1, 1, 1, 1)  # FFmpeg's numbers of BT.709, and of the limited range
    assert (frame.colorspace, frame.color_range) == (1, 1)
    luma, blue, red = (np.asarray(plane).reshape(plane.height, plane.line_size) for plane in frame.planes)
    # pure red by Rec. ITU-R BT.709-6, 8 bits: 16 + 219 * 0.2126, 128 - 224 * 0.2126 / 1.8556, 128 + 112
    assert luma[6, 8] == pytest.approx(63, abs=3)
    assert blue[3, 4] == pytest.approx(102, abs=3)
    assert red[3, 4] == pytest.approx(240, abs=3)
    assert shown(result.videos[0])[0][6, 8] == pytest.approx((255, 0, 0), abs=8)
