"""What is wrong with the members of a clip: those that 'pack' writes, and those of other programs' shards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ialcms.data.manifest import Clip
from ialcms.data.members import Naming, first_of
from ialcms.pictures import BadPicture, load_picture, open_picture
from ialcms.reading import Unreadable, shown
from ialcms.reading.arrays import parse_array
from ialcms.reading.sounds import Sound, parse_sound
from ialcms.reading.text import parse_json
from shards.clean import FRAME, X1, X2, Y1, Y2, Detections, is_box, spans_a_pixel
from shards.encode import AUDIO_FORMATS
from shards.waves import check_wave


def check_members(clip: Clip, members: dict[str, bytes], sample_rate: int) -> None:
    """Raises ValueError with what is wrong with the members of a clip of ours: suffix -> content."""
    sounds = [extension for extension in members if extension in AUDIO_FORMATS]
    pictures = {extension for extension in members if extension.endswith(".jpg")}
    others = sorted(set(members) - set(sounds) - pictures)
    if len(sounds) != 1 or not pictures or others != ["json", "npy"]:
        raise ValueError(f"must have one sound, pictures, .npy and .json, but has {', '.join(sorted(members))}")
    sound = check_sound(members[sounds[0]], sample_rate)
    if (sound.num_samples, sound.num_channels) != (clip.num_samples, 1):
        raise ValueError(
            f"sound has {sound.num_samples} samples of {sound.num_channels} channels, not {clip.num_samples} of 1"
        )
    boxes = read_boxes(members["npy"])
    if boxes.dtype != np.float32 or boxes.shape != (clip.num_boxes, 7):
        raise ValueError(f"boxes are {boxes.dtype} {boxes.shape}, not float32 ({clip.num_boxes}, 7)")
    check_boxes(boxes)
    named = {f"{int(number):06d}.jpg" for number in boxes[:, FRAME]}
    if named != pictures:
        raise ValueError(f"boxes and pictures differ in frames {', '.join(sorted(named ^ pictures)[:3])}")
    for name in sorted(pictures):
        of_frame = boxes[boxes[:, FRAME] == int(name.removesuffix(".jpg"))]
        check_picture(name, members[name], of_frame, formats=("JPEG",))
    try:
        metadata = parse_json(members["json"])
        stated = {name: metadata[name] for name in ("instrument", "video", "split", "num_samples", "num_boxes")}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(".json is damaged") from error
    for name, value in stated.items():
        if value != getattr(clip, name):
            raise ValueError(f".json says {name} {shown(value)}, the manifest {getattr(clip, name)!r}")


def check_foreign_members(clip: Clip, members: dict[str, bytes], sample_rate: int, naming: Naming) -> None:
    """Raises ValueError with what is wrong with a clip of another program: what training reads of it must be sound.

    members: suffix -> content. sample_rate: of the manifest, in Hz. naming: the suffixes of sound, pictures and boxes.
    """
    found = measure(members, sample_rate, naming)
    if (found.num_samples, found.num_boxes) != (clip.num_samples, clip.num_boxes):
        raise ValueError(
            f"has {found.num_samples} samples and {found.num_boxes} boxes, the manifest says {clip.num_samples} and "
            f"{clip.num_boxes}"
        )


@dataclass(frozen=True)
class Measures:
    """What the members of a clip say of it."""

    num_samples: int
    num_boxes: int
    sample_rate: int


def measure(members: dict[str, bytes], sample_rate: int | None, naming: Naming) -> Measures:
    """The measures of a clip of another program. Raises ValueError with what is wrong with it.

    sample_rate: that the sound must have; None takes any.
    """
    content, table = first_of(members, naming.sound), first_of(members, naming.boxes)
    for what, member, names in (("sound", content, naming.sound), ("boxes", table, naming.boxes)):
        if member is None:
            raise ValueError(f"no {what} (.{', .'.join(names)}) among {_list(members)}")
    sound = check_sound(content, sample_rate)
    boxes = read_boxes(table)
    if boxes.ndim != 2 or boxes.shape[1] != 7 or not np.issubdtype(boxes.dtype, np.floating) or not len(boxes):
        raise ValueError(f"boxes are {boxes.dtype} {boxes.shape[:4]}, not rows of seven floats")
    with np.errstate(over="ignore"):
        boxes = boxes.astype(np.float32)
    check_boxes(boxes)
    frames = {naming.frame(suffix): suffix for suffix in members}
    del frames[None]
    if not frames:
        raise ValueError(f"no picture (.{', .'.join(naming.picture)}) among {_list(members)}")
    for number in np.unique(boxes[:, FRAME]).astype(int).tolist():
        suffix = frames.get(number, frames.get(-1))
        if suffix is None:
            raise ValueError(f"boxes name frame {number}, of which there is no picture among {_list(members)}")
        check_picture(suffix, members[suffix], boxes[boxes[:, FRAME] == number], formats=("JPEG", "PNG"))
    return Measures(sound.num_samples, len(boxes), sound.sample_rate)


def _list(members: dict[str, bytes]) -> str:
    names = sorted(f".{name}" for name in members)
    return f"{', '.join(names[:6])}{', ...' if len(names) > 6 else ''}" or "nothing"


def check_sound(content: bytes, sample_rate: int | None) -> Sound:
    """The decoded sound. Raises ValueError for a sound that nothing can be learned from."""
    try:
        sound = parse_sound(content)
    except Unreadable as error:
        raise ValueError("sound cannot be decoded") from error
    if len(sound.wave) != sound.num_samples:
        raise ValueError(f"sound ends after {len(sound.wave)} of {sound.num_samples} samples")
    scale = 1 / 32_768 if sound.wave.dtype == np.int16 else 1.0
    check_wave(sound.wave * np.float64(scale), sound.sample_rate, sample_rate or sound.sample_rate)
    return sound


def read_boxes(content: bytes) -> np.ndarray:
    """The array in a .npy file. Raises ValueError for one that cannot be read."""
    try:
        return parse_array(content)
    except Unreadable as error:
        raise ValueError(f".npy cannot be read ({error})") from error


def check_boxes(boxes: Detections) -> None:
    """Raises ValueError for rows (D, 7) that are no boxes, or too small ones."""
    if not is_box(boxes).all():
        raise ValueError("boxes are not finite, inverted or of no whole frame number")
    if not spans_a_pixel(boxes).all():
        raise ValueError("a box is smaller than a pixel")


def check_picture(name: str, content: bytes, boxes: Detections, formats: tuple[str, ...]) -> None:
    """Raises ValueError for a picture that cannot be decoded, or does not hold its boxes.

    name: of its file, for messages. boxes: (D, 7) detections in it. formats: that Pillow may decode.
    """
    try:
        image = load_picture(open_picture(content, formats))
    except BadPicture as error:
        raise ValueError(f"picture {name} cannot be decoded ({error})") from error
    if (boxes[:, [X1, Y1]] < 0).any() or (boxes[:, [X2, Y2]] > np.array(image.size)).any():
        raise ValueError(f"a box of picture {name} is not inside it")
