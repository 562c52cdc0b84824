"""Sounds as shards hold them: FLAC, WAV and what else libsndfile decodes; FLAC without a length by FFmpeg."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import soundfile

from ialcms.reading.words import Unreadable, one_line

_BLOCK = 1 << 18  # samples of all channels decoded at a time: a header can claim any number of them
_UNKNOWN_LENGTH = 1 << 62  # samples; libsndfile's number for a length that the header does not have is above
_MOST_SAMPLES = 1 << 30  # of a sound without a length
_IN_16_BITS = ("PCM_16", "PCM_S8", "PCM_U8")


@dataclass(frozen=True)
class Sound:
    """Decoded samples, and what the header says of all of them."""

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
            if lacks_length(file):
                return _without_length(raw, first, count)
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
    except Unreadable:
        raise
    except soundfile.LibsndfileError as error:
        raise Unreadable(one_line(error.error_string)) from error
    except Exception as error:  # soundfile raises Runtime, Value, Type and Overflow errors for impossible headers
        raise Unreadable(one_line(error)) from error
    return Sound(parts[1] if len(parts) == 2 else np.concatenate(parts), length, rate)


def lacks_length(file: soundfile.SoundFile) -> bool:
    """Whether a file's header has no length, as of FLAC that was written to a pipe: libsndfile cannot read it."""
    return bool(file.frames >= _UNKNOWN_LENGTH)


def decode_flac(source: str | io.BytesIO) -> Sound:
    """The whole sound of a FLAC file without a length, int16 where it has no more bits, else float32.

    source: its name as FFmpeg takes it, or its content. Raises Unreadable.
    """
    import av  # only such files need it: a machine that trains can lack it

    parts, count = [], 0
    try:
        with av.open(source, "r", format="flac") as container:
            for frame in container.decode(audio=0):
                parts.append(frame.to_ndarray().reshape(-1, frame.layout.nb_channels))  # interleaved, as FLAC's are
                count += len(parts[-1])
                if count > _MOST_SAMPLES:
                    raise Unreadable(f"more than {_MOST_SAMPLES} samples")
            rate = container.streams.audio[0].rate
    except (av.FFmpegError, IndexError) as error:
        raise Unreadable(one_line(error)) from error
    if not parts:
        raise Unreadable("it has no sound")
    wave = np.concatenate(parts)
    return Sound(
        wave if wave.dtype == np.int16 else (wave.astype(np.float64) / 2.0**31).astype(np.float32), len(wave), rate
    )


def _without_length(raw: bytes | memoryview, first: int, count: int | None) -> Sound:
    sound = decode_flac(io.BytesIO(raw))
    wave = sound.wave[first:] if count is None else sound.wave[first : first + count]
    return Sound(wave, sound.num_samples, sound.sample_rate)
