"""Sound files of a prepared tree -> 16-bit samples; damaged or impossible ones are refused, never repaired."""

from __future__ import annotations

import io
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from ialcms.names import for_ffmpeg
from ialcms.reading.sounds import decode_flac, lacks_length

SILENCE = 1e-4  # a sound with no sample above this is silent
LOUDEST = 4.0  # times full scale; what is louder than that is not a sound in floats
_AUDIBLY_CLIPPED = 1.05  # times full scale; lossy codecs and resampling go beyond 1 by a little
_BLOCK = 1 << 20  # samples
_UNKNOWN_BYTES = 0x7FFF0000  # programs that write to a pipe put this or more in the header


@dataclass(frozen=True)
class Sound:
    """The sound of a clip, as shards store it."""

    wave: NDArray[np.int16]  # (num_samples,)
    clipped: str | None = None  # how much of it was cut off at full scale, where one can hear it


def read_wave(path: Path, sample_rate: int) -> NDArray[np.int16]:
    """(num_samples,) of a sound file, as `read_sound` reads it."""
    return read_sound(path, sample_rate).wave


def read_sound(path: Path, sample_rate: int) -> Sound:
    """A sound file, channels averaged; 16-bit mono files come out as they are.

    Raises ValueError if it is missing, unreadable, cut off, empty, silent, not finite, far beyond full scale or of
    another sample rate.
    """
    if not path.is_file():
        raise ValueError("sound missing")
    # bytes: soundfile itself encodes names strictly
    wave, rate = read_samples(os.fsencode(path))
    check_wave(wave, rate, sample_rate)
    mono = wave.mean(axis=1)
    peak = float(np.abs(mono).max())
    clipped = None
    if peak > _AUDIBLY_CLIPPED:
        count = int((np.abs(mono) > 1).sum())
        clipped = f"{count} of {len(mono)} samples beyond full scale are cut off (peak {peak:.2f})"
    return Sound(np.rint(mono * 32_768).clip(-32_768, 32_767).astype(np.int16), clipped)


def read_samples(source: bytes | io.BytesIO) -> tuple[NDArray[np.float64], int]:
    """(num_samples, channels) with 1 for full scale, and the rate, of a file: its name in bytes, or its content.

    Raises ValueError when it cannot be decoded or ends before its header says.
    """
    blocks = []
    try:
        with soundfile.SoundFile(source) as file:
            if lacks_length(file):
                return _without_length(source)
            # block by block: a damaged header can ask for any amount of memory
            while len(block := file.read(_BLOCK, dtype="float64", always_2d=True)):
                blocks.append(block)
            wave = np.concatenate(blocks) if blocks else np.zeros((0, file.channels))
            rate, declared, remarks = file.samplerate, file.frames, file.extra_info
    except (soundfile.SoundFileError, ValueError) as error:
        raise ValueError("sound cannot be decoded") from error
    if len(wave) != declared or _cut_off(remarks):
        raise ValueError("sound is cut off: its file is shorter than its header says")
    return wave, rate


def _without_length(source: bytes | io.BytesIO) -> tuple[NDArray[np.float64], int]:
    """As `read_samples`, of FLAC whose header has no length."""
    if isinstance(source, io.BytesIO):
        source.seek(0)
    sound = decode_flac(source if isinstance(source, io.BytesIO) else for_ffmpeg(Path(os.fsdecode(source))))
    scale = 1 / 32_768 if sound.wave.dtype == np.int16 else 1.0
    return sound.wave * np.float64(scale), sound.sample_rate


def check_wave(wave: NDArray[np.float64], rate: int, sample_rate: int) -> None:
    """Raises ValueError for a sound (num_samples, channels) that nothing can be learned from."""
    if rate != sample_rate:
        raise ValueError(f"sound has {rate} samples per second, not {sample_rate}")
    if not len(wave):
        raise ValueError("sound has no samples")
    if not np.isfinite(wave).all():
        raise ValueError("sound has values that are not finite")
    peak = np.abs(wave).max()
    if peak > LOUDEST:
        times = 10 ** math.ceil(math.log10(peak))
        raise ValueError(
            f"sound is up to {times:,} times full scale, which is 1 for floats; its samples may be whole numbers "
            "stored as floats"
        )
    if np.abs(wave.mean(axis=1)).max() <= SILENCE:
        raise ValueError("sound is silent" if peak <= SILENCE else "sound's channels cancel each other; invert one")


def _cut_off(remarks: str) -> bool:
    """Whether libsndfile has found less of a WAV than its header says; it reads what there is without an error."""
    for line in remarks.splitlines():
        found = re.fullmatch(r"\s*(data|Riff size) : (\d+) \(should be (\d+)\)", line)
        if found and int(found[3]) < int(found[2]):
            return found[1] != "data" or int(found[2]) < _UNKNOWN_BYTES
    return False
