"""A video: one player with one instrument in one room. Its clips are other phrases of the same player.

Every part draws from its own generator, keyed by (seed, instrument, video, clip, part): a clip is the same whatever
else is made, in whatever order.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ialcms.demo.detections import Detector, detect, draw_detector
from ialcms.demo.instruments import Instrument
from ialcms.demo.music import Style, compose, draw_style
from ialcms.demo.room import Room, draw_room, record
from ialcms.demo.scene import FRAMES_PER_SECOND, Look, draw_look, render_frames
from ialcms.demo.synthesis import SAMPLE_RATE, Voice, draw_voice, synthesize

CLIP_SECONDS = 10
NUM_SAMPLES = CLIP_SECONDS * SAMPLE_RATE
NUM_FRAMES = CLIP_SECONDS * FRAMES_PER_SECOND


class _Part(enum.IntEnum):
    """What a random generator is for. The numbers are part of the data set's identity: never reuse one."""

    SOUND = 1
    LOOK = 2
    DETECTOR = 3


@dataclass(frozen=True)
class VideoId:
    """Names a video; all of it follows from this."""

    seed: int
    instrument: Instrument
    number: int

    @property
    def name(self) -> str:
        return f"{self.instrument.name}-{self.number:03d}"

    def generator(self, part: _Part, clip: int | None = None) -> np.random.Generator:
        """For a clip, or for what its clips share."""
        clip_key = 0 if clip is None else 1 + clip
        # all keys have the same length: SeedSequence takes missing words for zeros
        return np.random.default_rng([self.seed, self.instrument.class_id, self.number, clip_key, part])


@dataclass(frozen=True, eq=False)
class Video:
    """What all clips of a video have in common."""

    id: VideoId
    style: Style
    voice: Voice
    room: Room
    look: Look
    detector: Detector


@dataclass(frozen=True, eq=False)
class Clip:
    """Ten seconds of a video."""

    wave: np.ndarray  # float32 (NUM_SAMPLES,) within [-1, 1]
    frames: list[Image.Image]  # NUM_FRAMES
    boxes: np.ndarray  # float32 (NUM_FRAMES, 4), exact
    detections: np.ndarray  # float32 (D, 7), see `detections.detect`; frames count from 1


def draw_video(video_id: VideoId, frame_size: tuple[int, int]) -> Video:
    """`frame_size` is (width, height)."""
    sound_rng = video_id.generator(_Part.SOUND)
    return Video(
        id=video_id,
        style=draw_style(sound_rng, video_id.instrument),
        voice=draw_voice(sound_rng),
        room=draw_room(sound_rng, video_id.instrument),
        look=draw_look(video_id.generator(_Part.LOOK), video_id.instrument.name, frame_size),
        detector=draw_detector(video_id.generator(_Part.DETECTOR)),
    )


def make_clip(video: Video, number: int) -> Clip:
    """Clip `number` of a video: sound, frames, boxes and detections."""
    wave = make_wave(video, number)
    frames, boxes = render_frames(video.id.generator(_Part.LOOK, number), video.look, _loudness(wave))
    detections = detect(
        video.id.generator(_Part.DETECTOR, number),
        video.detector,
        video.id.instrument,
        boxes=boxes,
        frame_size=video.look.frame_size,
    )
    return Clip(wave, frames, boxes, detections=detections)


def make_wave(video: Video, number: int) -> np.ndarray:
    """The sound of a clip, without its pictures: float32 (NUM_SAMPLES,) within [-1, 1]."""
    rng = video.id.generator(_Part.SOUND, number)
    notes = compose(rng, video.id.instrument, video.style, duration_s=CLIP_SECONDS)
    clean = synthesize(rng, video.id.instrument, video.voice, notes=notes, duration_s=CLIP_SECONDS)
    return record(rng, video.room, clean)


def _loudness(wave: np.ndarray) -> np.ndarray:
    """Level from each frame to the next, 0 .. 1: float (NUM_FRAMES,)."""
    starts = np.arange(NUM_FRAMES) * SAMPLE_RATE // FRAMES_PER_SECOND
    level = np.sqrt(np.add.reduceat(wave.astype(float) ** 2, starts))
    return level / (level.max() + 1e-9)
