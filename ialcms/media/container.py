"""Opening a media file: its streams, its beginning, its length."""

from __future__ import annotations

import ctypes
import re
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import av

Stream = av.AudioStream | av.VideoStream
_AnyStream = TypeVar("_AnyStream", av.AudioStream, av.VideoStream)
_COVER = av.stream.Disposition.attached_pic
_PROTOCOL = "file:"
_PACKETS_ALONE = ("mp3", "aac", "ac3", "eac3", "dts")  # formats that are nothing but packets ...
# ... but for what encoders of MP3 write into the first one: flags, frames, bytes
_LENGTH_TAG = re.compile(rb"(?:Xing|Info)(.{12})", re.DOTALL)
_LONGER_THAN_TOLD = 17 / 16  # as FFmpeg has it
_UNKNOWN_SIZE = 0xFFFFFFFF
_HEAD_BYTES = 1_000_000  # pictures and texts may come before it
_NAMED_PLACES = re.compile(r"\d+ channels \(")  # how FFmpeg describes a layout that has no name


def open_container(path: Path) -> av.container.InputContainer:
    """Open a file for reading. Raises av.FFmpegError and OSError."""
    # with the protocol, so that no part of a name is taken for one
    return av.open(f"{_PROTOCOL}{path}", metadata_errors="ignore")


def sound_stream(container: av.container.InputContainer) -> av.AudioStream | None:
    """The first sound that this FFmpeg can decode."""
    stream = _first(container.streams.audio)
    if stream is not None:
        _forget_odd_places(stream.codec_context)
    return stream


def picture_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """The first video that this FFmpeg can decode; a cover picture is none."""
    return _first(stream for stream in container.streams.video if not stream.disposition & _COVER)


def origin_s(container: av.container.InputContainer) -> float:
    """The earliest time stamp of the streams: the beginning of the file."""
    return (container.start_time or 0) / av.time_base


def told_length_s(container: av.container.InputContainer, stream: Stream) -> float | None:
    """When a stream should end, as far as the file tells; of several answers the earliest."""
    if _is_guessed(container):
        return None
    begin_s = origin_s(container)
    told = []
    if container.duration:
        told.append(container.duration / av.time_base * _told_share(container))
    if stream.duration and stream.time_base:
        end_s = float(((stream.start_time or 0) + stream.duration) * stream.time_base)
        told.append((end_s - begin_s) * _told_share(container))
    if match := _tagged_length(stream):
        hours, minutes, seconds = map(float, match.groups())
        told.append(3600 * hours + 60 * minutes + seconds - begin_s)
    return min(told, default=None)


def stream_tells_length(container: av.container.InputContainer, stream: Stream) -> bool:
    """Whether the file tells of this stream how long it is, not only of its longest one."""
    return bool(stream.duration or _tagged_length(stream) or len(container.streams) == 1)


def _tagged_length(stream: Stream) -> re.Match[str] | None:
    return re.fullmatch(r"(\d+):(\d+):(\d+\.\d+)", stream.metadata.get("DURATION", ""))  # as Matroska has it


def _is_guessed(container: av.container.InputContainer) -> bool:
    """Whether a file tells nothing of its length, which FFmpeg guesses from its size."""
    if container.format.name not in _PACKETS_ALONE:
        return False
    tag = _LENGTH_TAG.search(_head(container, _HEAD_BYTES))
    if tag is None:
        return True
    flags, _, num_bytes = struct.unpack(">III", tag[1])
    return flags & 3 != 3 or container.size > num_bytes * _LONGER_THAN_TOLD  # several files joined


def _told_share(container: av.container.InputContainer) -> float:
    """How many times as long a file should be, by its head. (FFmpeg believes the size of a WAV file, not its head.)"""
    if container.format.name != "wav":
        return 1.0
    kind, told_bytes = struct.unpack("<4sI", _head(container, 8))
    if kind != b"RIFF" or told_bytes in (0, _UNKNOWN_SIZE):  # written by a program that could not go back
        return 1.0
    return max(1.0, (told_bytes + 8) / container.size)


def _head(container: av.container.InputContainer, num_bytes: int) -> bytes:
    with open(container.name.removeprefix(_PROTOCOL), "rb") as file:
        return file.read(num_bytes)


def keep_layout(layout: av.AudioLayout) -> str:
    """The name of a channel layout, which is made immortal if it may be of the kind that PyAV 18 frees twice.

    (A layout with a list of its own, like "4 channels (FL+FR+UNK+UNK)" of a camera's MOV file: PyAV copies the pointer
    to that list, and the process aborts when both copies are gone.)
    """
    try:
        name = layout.name
        doubtful = _NAMED_PLACES.match(name) is not None
    except (UnicodeDecodeError, RuntimeError):
        name, doubtful = "unknown", True
    if doubtful:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(layout))
    return name


def _first(streams: Iterable[_AnyStream]) -> _AnyStream | None:
    return next((stream for stream in streams if stream.codec_context is not None), None)


def _forget_odd_places(context: av.AudioCodecContext) -> None:
    """Channels with unusual places are numbered ones from here on: frames that say more would be freed twice."""
    layout = context.layout
    if _NAMED_PLACES.match(keep_layout(layout)) and not context.is_open:
        context.layout = f"{layout.nb_channels}C"
