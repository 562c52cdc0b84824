"""Small media files as people have them: every second of their sound and every corner of their pictures is known."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FRAMES_PER_SECOND = 5
_SAMPLES = 1024  # of one frame of sound


@dataclass(frozen=True)
class Recording:
    """What is in a file: second s of the sound is a tone of 400 + 100 s Hz, the pictures have coloured corners."""

    seconds: int = 6
    sample_rate: int = 48_000
    layout: str = "stereo"
    sound_codec: str | None = "aac"
    size: tuple[int, int] = (64, 48)  # width, height in pixels; even
    video_codec: str | None = "libx264"
    pixel_ratio: Fraction | None = None
    start_s: float = 0.0
    key_frames_s: int = 1  # between two of them
    holes: tuple[tuple[float, float], ...] = ()  # (second of the sound, how much later it continues)


def tones(seconds: int, rate: int) -> np.ndarray:
    time = np.arange(rate) / rate
    return np.concatenate([0.3 * np.sin(2 * np.pi * (400 + 100 * second) * time) for second in range(seconds)])


def pitches(wave: np.ndarray, rate: int) -> list[int]:
    """Of each whole second, in hundreds of Hz; 0 for silence. Seconds' ends are left out."""
    found = []
    for second in range(len(wave) // rate):
        part = wave[round((second + 0.2) * rate) : round((second + 0.8) * rate)]
        spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part))))
        loud = np.abs(part).max() > 1e-3
        found.append(round(spectrum.argmax() * rate / len(part) / 100) if loud else 0)
    return found


def corner_pixels(width: int, height: int) -> np.ndarray:
    """Red upper left, green upper right, blue lower left."""
    pixels = np.full((height, width, 3), 60, np.uint8)
    third = height // 3, width // 3
    pixels[: third[0], : third[1]] = (255, 0, 0)
    pixels[: third[0], -third[1] :] = (0, 255, 0)
    pixels[-third[0] :, : third[1]] = (0, 0, 255)
    return pixels


def corners(pixels: np.ndarray) -> str:
    """The colours of the corners, line by line: RGB. for `corner_pixels`."""
    height, width = pixels.shape[:2]
    names = {(True, False, False): "R", (False, True, False): "G", (False, False, True): "B"}
    positions = [(y, x) for y in (4, height - 5) for x in (4, width - 5)]
    return "".join(names.get(tuple((pixels[y, x] > 140).tolist()), ".") for y, x in positions)


def write_media(path: Path, recording: Recording | None = None, container: str | None = None) -> Path:
    """A file of one recording. container: FFmpeg's name of the format, if it does not follow from the file's name."""
    made = recording or Recording()
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format=container) as output:
        streams = []
        if made.video_codec:
            streams.append((_add_video(output, made), _frames(made)))
        if made.sound_codec:
            sound = output.add_stream(made.sound_codec, rate=made.sample_rate, layout=made.layout)
            streams.append((sound, _samples(made, sound.codec_context.format.name)))
        timed = [(float(f.pts * f.time_base), n, s, f) for n, (s, frames) in enumerate(streams) for f in frames]
        for _, _, stream, frame in sorted(timed, key=lambda entry: entry[:2]):
            output.mux(stream.encode(frame))
        for stream, _ in streams:
            output.mux(stream.encode(None))
    return path


def join(path: Path, *recordings: Recording, container: str = "mpegts", anew: bool = False) -> Path:
    """Recordings end to end in one file. anew: the time stamps of each begin at 0, not where the last one ended."""
    content, start_s = b"", 0.0
    for made in recordings:
        part = path.with_name(f"part-{path.name}")
        begin_s = 0.0 if anew else start_s + made.start_s
        content += write_media(part, dataclasses.replace(made, start_s=begin_s), container).read_bytes()
        part.unlink()
        start_s += made.seconds
    path.write_bytes(content)
    return path


def set_display_matrix(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """StepSchedule and mirror the pictures of an mp4 file: x' = a x + c y, y' = b x + d y."""
    content = bytearray(path.read_bytes())
    numbers = a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30
    struct.pack_into(">9i", content, content.find(b"tkhd") + 44, *numbers)
    path.write_bytes(content)
    return path


def set_channel_labels(path: Path, labels: Sequence[int]) -> Path:
    """Give the channels of a MOV file that was made with the layout "quad" positions by Apple's numbers, one by one."""
    content = bytearray(path.read_bytes())
    at = content.find(b"chan") - 4
    described = b"".join(struct.pack(">IIfff", label, 0, 0, 0, 0) for label in labels)
    box = struct.pack(">I4sIIII", 24 + len(described), b"chan", 0, 0, 0, len(labels)) + described
    grown = len(box) - struct.unpack_from(">I", content, at)[0]
    for around in _boxes_around(content, at):
        struct.pack_into(">I", content, around, struct.unpack_from(">I", content, around)[0] + grown)
    content[at : at + len(box) - grown] = box
    path.write_bytes(content)
    return path


def _boxes_around(content: bytes, position: int) -> list[int]:
    """Where the boxes begin that hold a position, from the outermost on."""
    found, at, end = [], 0, len(content)
    while at + 8 <= end:
        size, kind = struct.unpack_from(">I4s", content, at)
        if at < position < at + size and kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"sowt"):
            found.append(at)
            end = at + size
            at += 16 if kind == b"stsd" else size if kind == b"sowt" else 8
        else:
            at += max(size, 8)
    return found


def _add_video(output: av.container.OutputContainer, made: Recording) -> av.VideoStream:
    options = {"preset": "ultrafast", "crf": "5"} if made.video_codec == "libx264" else {"b": "2M"}
    stream = output.add_stream(made.video_codec, rate=FRAMES_PER_SECOND, options=options)
    stream.width, stream.height = made.size
    stream.pix_fmt = "yuv420p"
    stream.codec_context.gop_size = FRAMES_PER_SECOND * made.key_frames_s
    if made.pixel_ratio:
        stream.codec_context.sample_aspect_ratio = made.pixel_ratio
    return stream


def _frames(made: Recording) -> list[av.VideoFrame]:
    frames = []
    pixels = corner_pixels(*made.size)
    for number in range(round((made.seconds + sum(length for _, length in made.holes)) * FRAMES_PER_SECOND)):
        frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
        frame.time_base = Fraction(1, FRAMES_PER_SECOND)
        frame.pts = round(made.start_s * FRAMES_PER_SECOND) + number
        frames.append(frame)
    return frames


def _samples(made: Recording, sample_format: str) -> Sequence[av.AudioFrame]:
    num_channels = av.AudioLayout(made.layout).nb_channels
    rate, to_codec = made.sample_rate, av.AudioResampler(sample_format, made.layout, made.sample_rate)
    wave = np.tile(tones(made.seconds, rate).astype(np.float32)[:, None], (1, num_channels))
    frames = []
    for first in range(0, len(wave), _SAMPLES):
        part = np.ascontiguousarray(wave[first : first + _SAMPLES].reshape(1, -1))
        frame = av.AudioFrame.from_ndarray(part, "flt", made.layout)
        frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
        late_s = sum(length for at_s, length in made.holes if first >= at_s * rate)
        frame.pts = round((made.start_s + late_s) * rate) + first
        frames += to_codec.resample(frame)
    return frames
