"""Sounds and pictures as data URIs, which lie in the page itself.

Sounds are 16-bit WAV: every browser plays it, a jump in it is plain arithmetic, and it adds no coding noise of its own
to what people are to judge. FLAC would be a third smaller, but Chromium stops with an error at some jumps in
it. MP3 would add coding noise.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image

from ialcms.heatmap import OPACITY, SMALLEST_RANGE, bright_palette
from ialcms.report.content import Wave

_PEAK = 0.9  # of full scale, of an example's loudest sound
_LARGEST_GAIN = 10.0  # a nearly silent example stays quiet
_SILENT = 1e-5  # peaks below are nothing to make louder
_LOUDEST_ESTIMATE = 4.0  # times the peak of mix and references; what is louder is clipped, the rest stays audible
_PICTURE_SIDE = 432  # px, for screens with two dots a pixel
_HEAT_SIDE = 128


def data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def playback_gain(given: Sequence[Wave], estimates: Sequence[Wave]) -> float:
    """One factor for all sounds of an example, so that their levels compare; the loudest nearly fills the range.

    Estimates that are more than four times louder than mix and references (`given`) do not count: they clip.
    """
    peak = max(_peak(wave) for wave in given)
    peak = max(peak, min(max(_peak(wave) for wave in estimates), _LOUDEST_ESTIMATE * peak))
    return 1.0 if peak < _SILENT else min(_PEAK / peak, _LARGEST_GAIN)


def _peak(wave: Wave) -> float:
    return float(np.abs(wave[np.isfinite(wave)]).max(initial=0.0))


def sound_uri(wave: Wave, gain: float, sample_rate: int) -> str:
    """(S,) finite samples -> 16-bit mono WAV; clips at full scale."""
    file = io.BytesIO()
    soundfile.write(file, np.clip(wave * gain, -1.0, 1.0), sample_rate, format="WAV", subtype="PCM_16")
    return data_uri("audio/wav", file.getvalue())


def picture_uri(picture: NDArray[np.uint8]) -> str:
    """(H, W, 3) -> JPEG of at most 432 px a side."""
    image = Image.fromarray(np.ascontiguousarray(picture))
    image.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85, optimize=True)
    return data_uri("image/jpeg", file.getvalue())


def heat_uri(localisation: NDArray[np.floating]) -> str:
    """(h, w) in 0..1 -> smooth PNG to lay over the picture: clear where the map is lowest, bright where highest."""
    finite = np.nan_to_num(localisation.astype(np.float32), nan=0.0, posinf=1.0, neginf=0.0)
    stretched = (finite - finite.min()) / max(float(np.ptp(finite)), SMALLEST_RANGE)
    small = Image.fromarray(stretched)
    smooth = np.asarray(small.resize((_HEAT_SIDE, _HEAT_SIDE), Image.Resampling.BICUBIC))
    image = Image.fromarray(np.round(np.clip(smooth, 0, 1) * 255).astype(np.uint8))
    image.putpalette(bright_palette().tobytes())
    opacity = np.round(255 * OPACITY * np.linspace(0, 1, 256)).astype(np.uint8)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True, transparency=opacity.tobytes())
    return data_uri("image/png", file.getvalue())
