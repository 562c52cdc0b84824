"""Opening a media file: its streams, its beginning, its length."""

from __future__ import annotations

import ctypes
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import av

Stream = av.AudioStream | av.VideoStream
_AnyStream = TypeVar("_AnyStream", av.AudioStream, av.VideoStream)
_COVER = av.stream.Disposition.attached_pic
_PROTOCOL = "file:"
_ROUNDING_S = 0.1  # of the length that a file declares for a stream
_OTHER_STREAM_S = 1.0  # a stream may be shorter than the file by this
_PACKETS_ALONE = ("mp3", "aac", "ac3", "eac3", "dts")  # formats that are nothing but packets ...
# ... but for what encoders of MP3 write into the first one: flags, frames, bytes
_LENGTH_TAG = re.compile(rb"(?:Xing|Info)(.{12})", re.DOTALL)
_LONGER_THAN_DECLARED = 17 / 16  # as FFmpeg has it
_RIFF = ("wav", "avi")
_UNKNOWN_SIZE = 0xFFFFFFFF
_LARGEST_OGG_PAGE = 65_307  # bytes
_OGG_END = 4  # flag of a stream's last page
_HEADER_BYTES = 1_000_000  # pictures and texts may come before it
_NAMED_CHANNELS = re.compile(r"\d+ channels \(")  # how FFmpeg describes a layout that has no name


def open_container(path: Path) -> av.container.InputContainer:
    """Open a file for reading. Raises av.FFmpegError and OSError."""
    # with the protocol, so that no part of a name is taken for one
    return av.open(f"{_PROTOCOL}{path}", metadata_errors="ignore")


def sound_stream(container: av.container.InputContainer) -> av.AudioStream | None:
    """The first sound that this FFmpeg can decode."""
    stream = _first(container.streams.audio)
    if stream is not None:
        _number_odd_channels(stream.codec_context)
    return stream


def picture_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """The first video that this FFmpeg can decode; a cover picture is none."""
    return _first(stream for stream in container.streams.video if not stream.disposition & _COVER)


def origin_s(container: av.container.InputContainer) -> float:
    """The earliest time stamp of the streams: the beginning of the file."""
    return (container.start_time or 0) / av.time_base


@dataclass(frozen=True)
class DeclaredLength:
    """When a stream should end, as the file declares."""

    seconds: float | None  # on the file's time line
    rounding_s: float  # how much earlier a whole stream may end


def declared_length(container: av.container.InputContainer, stream: Stream) -> DeclaredLength:
    """Of several answers the earliest."""
    if _is_guessed(container):
        return DeclaredLength(None, _OTHER_STREAM_S)
    begin_s, share = origin_s(container), _declared_share(container)
    ends_s = []
    if container.duration:
        ends_s.append(container.duration / av.time_base * share)
    if stream.duration and stream.time_base:
        end_s = float(((stream.start_time or 0) + stream.duration) * stream.time_base)
        ends_s.append((end_s - begin_s) * share)
    tag = re.fullmatch(r"(\d+):(\d+):(\d+\.\d+)", stream.metadata.get("DURATION", ""))  # as Matroska has it
    if tag is not None:
        hours, minutes, seconds = map(float, tag.groups())
        ends_s.append(3600 * hours + 60 * minutes + seconds - begin_s)
    of_stream = stream.duration or tag or len(container.streams) == 1
    return DeclaredLength(min(ends_s, default=None), _ROUNDING_S if of_stream else _OTHER_STREAM_S)


def lacks_its_end(container: av.container.InputContainer) -> bool:
    """Whether a format that marks the end of its streams does not do so in this file."""
    if container.format.name != "ogg":
        return False
    with open(container.name.removeprefix(_PROTOCOL), "rb") as file:
        file.seek(max(0, container.size - _LARGEST_OGG_PAGE))
        tail = file.read()
    last = tail.rfind(b"OggS")
    return last < 0 or last + 5 >= len(tail) or not tail[last + 5] & _OGG_END


def _is_guessed(container: av.container.InputContainer) -> bool:
    """Whether a file declares no length, so that FFmpeg guesses it from the size."""
    if container.format.name not in _PACKETS_ALONE:
        return False
    tag = _LENGTH_TAG.search(_header(container, _HEADER_BYTES))
    if tag is None:
        return True
    flags, _, num_bytes = struct.unpack(">III", tag[1])
    return flags & 3 != 3 or container.size > num_bytes * _LONGER_THAN_DECLARED  # several files joined


def _declared_share(container: av.container.InputContainer) -> float:
    """How many times as long a file should be, by its header (FFmpeg takes the size of a WAV or AVI file instead)."""
    if container.format.name not in _RIFF:
        return 1.0
    kind, declared_bytes = struct.unpack("<4sI", _header(container, 8))
    if kind != b"RIFF" or declared_bytes in (0, _UNKNOWN_SIZE):  # written by a program that could not go back
        return 1.0
    return max(1.0, (declared_bytes + 8) / container.size)


def _header(container: av.container.InputContainer, num_bytes: int) -> bytes:
    with open(container.name.removeprefix(_PROTOCOL), "rb") as file:
        return file.read(num_bytes)


def keep_layout(layout: av.AudioLayout) -> str:
    """The name of a channel layout; one of the kind that PyAV 18 may free twice is never freed.

    (A layout with a list of its own, like "4 channels (FL+FR+UNK+UNK)" of a camera's MOV file: PyAV copies the pointer
    to that list, and the process aborts when both copies are gone.)
    """
    try:
        name = layout.name
        doubtful = _NAMED_CHANNELS.match(name) is not None
    except (UnicodeDecodeError, RuntimeError):
        name, doubtful = "unknown", True
    if doubtful:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(layout))
    return name


def _first(streams: Iterable[_AnyStream]) -> _AnyStream | None:
    return next((stream for stream in streams if stream.codec_context is not None), None)


def _number_odd_channels(context: av.AudioCodecContext) -> None:
    """Replace a layout of unusual channels by numbered ones: PyAV would free frames with the former twice."""
    layout = context.layout
    if _NAMED_CHANNELS.match(keep_layout(layout)) and not context.is_open:
        context.layout = f"{layout.nb_channels}C"
