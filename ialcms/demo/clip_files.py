"""A clip's files in the prepared tree: where they lie, whether they are whole, how they are written.

Everything is written under a temporary name and renamed, so that what has its final name is whole.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from ialcms.demo.synthesis import SAMPLE_RATE
from ialcms.demo.video import NUM_FRAMES, Clip, VideoId
from ialcms.files import replacing


@dataclass(frozen=True)
class ClipPaths:
    """Relative to the root of the data set, with forward slashes as in its CSV files."""

    audio: str
    frames: str  # a folder
    detections: str


def clip_paths(video_id: VideoId, number: int) -> ClipPaths:
    """Where clip `number` of a video lies in a prepared tree."""
    instrument, clip = video_id.instrument.name, f"{video_id.name}_{number}"
    return ClipPaths(
        f"solo_audio_resample/{instrument}/{clip}.wav",
        f"solo_extract/{instrument}/{clip}",
        f"solo_detect/{instrument}/{clip}.npy",
    )


def is_finished(root: Path, paths: ClipPaths) -> bool:
    """Whether all files of a clip are there."""
    frames = root / paths.frames
    return (
        (root / paths.audio).is_file()
        and (root / paths.detections).is_file()
        and frames.is_dir()
        and len(os.listdir(frames)) == NUM_FRAMES
    )


def write_clip(root: Path, paths: ClipPaths, clip: Clip, jpeg_quality: int) -> None:
    """Write the clip's files, replacing those that are there.

    root: of the data set. paths: of the files in it. jpeg_quality: of the frames.
    """
    with replacing(root / paths.audio) as temporary:
        soundfile.write(temporary, clip.wave, SAMPLE_RATE, subtype="PCM_16", format="WAV")
    with replacing(root / paths.detections) as temporary, open(temporary, "wb") as file:
        np.save(file, clip.detections)
    with replacing(root / paths.frames) as temporary:
        temporary.mkdir()
        for number, frame in enumerate(clip.frames, start=1):
            frame.save(temporary / f"{number:06d}.jpg", quality=jpeg_quality)
