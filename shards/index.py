"""Which clips a prepared tree holds, and which of them are for training, validation and test."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from ialcms.processes import map_threads
from ialcms.rng import permutation
from shards.entries import Entry

AUDIO_SUFFIXES = (".wav", ".flac")  # in capitals, too


@dataclass(frozen=True)
class TreeLayout:
    """Folders of a prepared tree; each holds a folder per instrument."""

    audio: str = "solo_audio_resample"
    frames: str = "solo_extract"
    detections: str = "solo_detect"


@dataclass(frozen=True)
class Tree:
    """The clips of a prepared tree."""

    entries: list[Entry]  # complete clips, without a split, sorted by instrument and clip
    missing: dict[str, list[str]]  # "sound", "frames" or "detections" -> '<instrument>/<clip>' of those without
    empty: list[str]  # instruments without a complete clip


def scan_tree(root: Path, layout: TreeLayout | None = None, jobs: int = 1) -> Tree:
    """Find the clips of a prepared tree, with `jobs` threads that list folders.

    Raises ValueError when it has no folder of this layout or no clip at all.
    """
    layout = layout or TreeLayout()
    folders = [root / layout.audio, root / layout.frames, root / layout.detections]
    for folder, option in zip(folders, ("--audio", "--frames", "--detections")):
        if not folder.is_dir():
            verb = "detect" if option == "--detections" else "clips"
            raise ValueError(
                f"{folder} does not exist; run 'ialcms data {verb}' first, or give its name in the tree with {option}"
            )
    instruments = sorted({p.name for folder in folders for p in folder.iterdir() if p.is_dir()})
    listed = map_threads(
        _names, [folder / name for name in instruments for folder in folders], jobs, description="scan", unit="folder"
    )
    tree = Tree([], {}, [])
    for number, instrument in enumerate(instruments):
        audio, frames, detections = listed[3 * number : 3 * number + 3]
        sounds = {Path(name).stem: name for name in sorted(audio) if name.lower().endswith(AUDIO_SUFFIXES)}
        boxes = {Path(name).stem: name for name in sorted(detections) if name.lower().endswith(".npy")}
        clips = sorted(set(sounds) | set(frames) | set(boxes))
        complete = [clip for clip in clips if clip in sounds and clip in frames and clip in boxes]
        for kind, present in (("sound", sounds), ("frames", frames), ("detections", boxes)):
            lacking = [f"{instrument}/{clip}" for clip in clips if clip not in present]
            if lacking:
                tree.missing.setdefault(kind, []).extend(lacking)
        if not complete:
            tree.empty.append(instrument)
        tree.entries.extend(
            Entry(
                split="",
                audio=folders[0] / instrument / sounds[clip],
                frames=folders[1] / instrument / clip,
                detections=folders[2] / instrument / boxes[clip],
            )
            for clip in complete
        )
    if not tree.entries:
        counts = ", ".join(f"{len(clips)} without {kind}" for kind, clips in tree.missing.items())
        verb = "detect" if set(tree.missing) == {"detections"} else "clips"
        raise ValueError(
            f"no clip in {root} has sound, frames and detections ({counts or 'no clip at all'}); run 'ialcms data "
            f"{verb}' first"
        )
    return tree


def split_by_video(
    entries: Sequence[Entry],
    val_fraction: float = 0.2,
    test_fraction: float = 0.0,
    test_videos: Collection[str] = (),
    seed: int = 0,
) -> list[Entry]:
    """Assign splits so that no video is in two of them and every instrument is about evenly represented.

    val_fraction, test_fraction: of each instrument's clips. test_videos: are in the test split in any case. seed: of
    the order in which videos are taken. An instrument of several videos has at least one in each split that is asked
    for, as long as one is left for training.
    """
    _check_fractions(val_fraction, test_fraction)
    clips_of: dict[str, Counter[str]] = {}  # video -> instrument -> clips
    for entry in entries:
        clips_of.setdefault(entry.video, Counter())[entry.instrument] += 1
    split_of = {video: "test" for video in clips_of if video in test_videos}
    by_instrument: dict[str, list[str]] = {}
    for video in sorted(clips_of):
        if video not in split_of:
            # a video that shows several instruments counts for the one that has most of its clips
            main = min(clips_of[video], key=lambda name: (-clips_of[video][name], name))
            by_instrument.setdefault(main, []).append(video)
    for instrument in sorted(by_instrument):
        order = permutation(len(by_instrument[instrument]), seed, "split by video", instrument)
        videos = [by_instrument[instrument][i] for i in order]
        sizes = {video: clips_of[video].total() for video in videos}
        num_clips = sum(sizes.values())
        for split, fraction in (("test", test_fraction), ("val", val_fraction)):
            for video in _take(sizes, fraction * num_clips):
                split_of[video] = split
                del sizes[video]
    return [dataclasses.replace(entry, split=split_of.get(entry.video, "train")) for entry in entries]


def split_by_clip(
    entries: Sequence[Entry],
    val_fraction: float = 0.2,
    test_fraction: float = 0.0,
    test_videos: Collection[str] = (),
    seed: int = 0,
) -> list[Entry]:
    """Assign splits to clips at random, as the published index does. Clips of one video come into several splits.

    val_fraction: of the clips outside the test split. test_fraction: of the clips that are not of
    `test_videos`, whose clips are all in the test split. seed: of the random order.
    """
    _check_fractions(val_fraction, test_fraction)
    chosen = ["test" if entry.video in test_videos else "" for entry in entries]
    rest = [i for i, split in enumerate(chosen) if not split]
    rest = [rest[i] for i in permutation(len(rest), seed, "split by clip")]
    num_test = round(test_fraction * len(rest))
    num_train = int((len(rest) - num_test) * (1 - val_fraction) + 1e-9)  # rounded down, up to rounding of the product
    for rank, i in enumerate(rest):
        chosen[i] = "test" if rank < num_test else "train" if rank < num_test + num_train else "val"
    return [dataclasses.replace(entry, split=split) for entry, split in zip(entries, chosen)]


def drop_missing(entries: Sequence[Entry], jobs: int = 1) -> tuple[list[Entry], list[Entry]]:
    """The entries whose files all exist, and the others; `jobs` threads look for the files."""
    exist = map_threads(_has_files, entries, jobs, description="look for files", unit="clip")
    complete = [entry for entry, exists in zip(entries, exist) if exists]
    return complete, [entry for entry, exists in zip(entries, exist) if not exists]


def shared_videos(entries: Sequence[Entry], one: str, other: str) -> set[str]:
    """Videos with clips in both splits: what leaks from one into the other."""
    return _videos(entries, one) & _videos(entries, other)


def _videos(entries: Sequence[Entry], split: str) -> set[str]:
    return {entry.video for entry in entries if entry.split == split}


def _has_files(entry: Entry) -> bool:
    return entry.audio.is_file() and entry.frames.is_dir() and entry.detections.is_file()


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _take(sizes: dict[str, int], target: float) -> list[str]:
    """Videos, in the given order, whose clips come closest to the target number; one is always left."""
    taken: list[str] = []
    num_clips = 0
    for video, size in sizes.items():
        if len(taken) + 1 < len(sizes) and abs(num_clips + size - target) < abs(num_clips - target):
            taken.append(video)
            num_clips += size
    if not taken and target > 0 and len(sizes) > 1:
        taken = [min(sizes, key=lambda video: sizes[video])]
    return taken


def _check_fractions(val_fraction: float, test_fraction: float) -> None:
    if min(val_fraction, test_fraction) < 0 or not val_fraction + test_fraction < 1:
        raise ValueError(
            f"--val-fraction {val_fraction} and --test-fraction {test_fraction}: give shares of the clips, "
            "not negative and together less than 1"
        )
