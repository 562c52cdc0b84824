"""Sounds as shards hold them: FLAC, WAV and what else libsndfile decodes."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import soundfile

from ialcms.reading.words import Unreadable, one_line

_BLOCK = 1 << 18  # samples of all channels decoded at a time: a header can claim any number of them
_IN_16_BITS = ("PCM_16", "PCM_S8", "PCM_U8")


@dataclass(frozen=True)
class Sound:
    wave: np.ndarray  # (samples, channels) int16 or float32: fewer samples than asked for where the sound ends
    num_samples: int  # as the header says
    sample_rate: int

    @property
    def num_channels(self) -> int:
        return int(self.wave.shape[1])


def parse_sound(raw: bytes | memoryview, first: int = 0, count: int | None = None) -> Sound:
    """Decode `count` samples (all) from sample `first` on: int16 where the file has no more bits, else float32.

    Raises Unreadable.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(raw)) as file:
            kind = "int16" if file.subtype in _IN_16_BITS else "float32"
            length, channels, rate = file.frames, file.channels, file.samplerate
            count = max(length - first, 0) if count is None else count
            if first and first < length:
                file.seek(first)
            parts = [np.zeros((0, channels), kind)]
            step = max(_BLOCK // channels, 1)
            while count > 0 and first < length:
                parts.append(file.read(min(step, count), dtype=kind, always_2d=True))
                count -= len(parts[-1])
                if len(parts[-1]) < step:
                    break
    except soundfile.LibsndfileError as error:
        raise Unreadable(one_line(error.error_string)) from error
    except Exception as error:  # soundfile raises Runtime, Value, Type and Overflow errors for impossible headers
        raise Unreadable(one_line(error)) from error
    return Sound(parts[1] if len(parts) == 2 else np.concatenate(parts), length, rate)
