"""The index: which files make up a clip; CSV files of rows AUDIO_PATH,FRAMES_PATH,DETECTION_PATH, one per split."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ialcms.data.manifest import SPLITS
from ialcms.files import open_text, write_whole
from ialcms.names import ENCODING_ERRORS, is_utf8, num_bytes
from ialcms.reading import shown

MAX_KEY_BYTES = 80  # with frame number and extension it must fit the 100 bytes of a plain tar header


@dataclass(frozen=True)
class Entry:
    """A clip of the prepared tree."""

    split: str  # train, val, test; empty before it is assigned
    audio: Path
    frames: Path  # folder
    detections: Path

    @property
    def instrument(self) -> str:
        """The folder that holds the sound."""
        return self.audio.parent.name

    @property
    def tree(self) -> Path:
        """The folder of the prepared tree that the sound lies in, as `<tree>/<kind>/<instrument>/<clip>.wav`."""
        parents = self.audio.absolute().parents
        return parents[min(2, len(parents) - 1)]

    @property
    def clip(self) -> str:
        return self.audio.stem

    @property
    def video(self) -> str:
        """'<video>_<k>' without its '_<k>'; ids of videos may hold '_' themselves."""
        return video_of(self.clip)

    @property
    def key(self) -> str:
        """The clip's name as a WebDataset key, in which dots would begin the extension."""
        return self.clip.replace(".", "-")


def video_of(clip: str) -> str:
    """The video that a clip was cut from, by the clip's name <video>_<number>."""
    return re.sub(r"_\d+$", "", clip) or clip


def csv_name(split: str) -> str:
    """File name of the index of a split, as the published code calls it."""
    return f"{split}_solo_clip.csv"


def parse_path_map(maps: Iterable[str]) -> list[tuple[str, str]]:
    """['OLD=NEW', ...] -> [(old, new), ...]; NEW counts from the working folder, as all paths of a command do."""
    pairs = []
    for text in maps:
        old, separator, new = text.partition("=")
        if not separator or not old or not new:
            raise ValueError(f"--map '{text}': write OLD=NEW, two beginnings of paths, like /lab/MUSIC=/data/MUSIC")
        pairs.append((old.rstrip("/"), os.path.abspath(new)))
    return pairs


def read_index(
    folder: str | Path, root: str | Path | None = None, path_map: Sequence[tuple[str, str]] = ()
) -> list[Entry]:
    """Read the CSV files of a folder; splits that have none are empty.

    Relative paths count from `root` (default: the folder). Raises ValueError when there is no CSV at all, for rows
    that have not three columns, for paths that climb out with '..' and for two clips of one name.
    """
    folder = Path(folder)
    root = Path(root) if root is not None else folder
    entries: list[Entry] = []
    for split in SPLITS:
        path = folder / csv_name(split)
        if path.is_file():
            entries += _read_csv(path, split, root, path_map=path_map)
    if not entries:
        names = ", ".join(csv_name(split) for split in SPLITS)
        raise ValueError(f"no clip in {folder} ({names}); write these files with 'ialcms data index'")
    check_keys(entries)
    return entries


def write_index(entries: Iterable[Entry], folder: Path) -> list[Path]:
    """Write one CSV per split, sorted, each whole or not at all.

    Paths in `folder` are written relative to it, so that the tree can move; others are written whole.
    """
    home = folder.absolute()
    rows: dict[str, list[list[str]]] = {split: [] for split in SPLITS}
    for entry in entries:
        paths = [path.absolute() for path in (entry.audio, entry.frames, entry.detections)]
        rows[entry.split].append([str(p.relative_to(home) if p.is_relative_to(home) else p) for p in paths])
    written = []
    for split in SPLITS:
        path = folder / csv_name(split)
        text = io.StringIO()
        for row in sorted(rows[split]):
            # by itself, the csv module leaves a carriage return unquoted, and takes it for the end of a line
            has_return = any("\r" in column for column in row)
            writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL if has_return else csv.QUOTE_MINIMAL)
            writer.writerow(row)
        write_whole(path, text.getvalue())
        written.append(path)
    return written


def list_frames(folder: Path) -> dict[int, Path]:
    """Number -> file of the pictures '<number>.png', '.jpg' or '.jpeg' in a folder. ValueError if there is none."""
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    frames = {
        int(file.stem): file
        for file in files
        if file.suffix.lower() in (".png", ".jpg", ".jpeg") and file.stem.isascii() and file.stem.isdigit()
    }
    if not frames:
        raise ValueError("no frames")
    return frames


def check_keys(entries: Iterable[Entry]) -> None:
    """Raises ValueError for two clips of one name and for names that a plain tar header cannot hold."""
    seen: dict[str, Entry] = {}
    for entry in entries:
        if num_bytes(entry.key) > MAX_KEY_BYTES:
            raise ValueError(f"clip name '{entry.clip}' is longer than {MAX_KEY_BYTES} bytes; rename its files")
        other = seen.setdefault(entry.key, entry)
        if other is not entry:
            one, two = (f"{each.frames}{f' ({each.split})' if each.split else ''}" for each in (other, entry))
            raise ValueError(
                f"two clips are named '{entry.key}': {one} and {two}; remove one row or rename one clip's files"
            )


def _read_csv(path: Path, split: str, root: Path, path_map: Sequence[tuple[str, str]]) -> list[Entry]:
    """path: of the CSV file. split: of all its clips. root: for relative paths. path_map: (old, new) prefixes."""
    entries = []
    with open_text(path, ENCODING_ERRORS) as file:
        rows = csv.reader(file)
        for number, row in enumerate(rows, start=1):
            columns = _columns(row)
            if not any(columns) or (number == 1 and _is_header(columns)):
                continue
            where = f"{path}, line {rows.line_num}"
            if len(columns) != 3 or not all(columns):
                _refuse_other_encoding(path, row)
                raise ValueError(f"{where}: a row is AUDIO_PATH,FRAMES_PATH,DETECTION_PATH, not {shown(','.join(row))}")
            audio, frames, detections = (_resolve(column, root, path_map, where=where) for column in columns)
            _refuse_other_encoding(path, row, audio)
            entries.append(Entry(split, audio, frames, detections=detections))
    return entries


def _columns(row: list[str]) -> list[str]:
    """Without the spaces around them, but for those that belong to the name of a clip."""
    columns = [column.strip() for column in row]
    if len(row) == 3 and row[1].lstrip().rpartition("/")[2] == PurePosixPath(columns[0]).stem:
        columns[1] = row[1].lstrip()
    return columns


def _is_header(columns: list[str]) -> bool:
    return len(columns) == 3 and not any("/" in column or "." in column for column in columns)


def _refuse_other_encoding(path: Path, row: list[str], audio: Path | None = None) -> None:
    """Raises ValueError for a row that is no UTF-8, unless these bytes are the name of its file."""
    if not is_utf8("".join(row)) and not (audio is not None and audio.is_file()):
        raise ValueError(f"{path} is no text in UTF-8, and files of such names are not there; save it as such")


def _resolve(text: str, root: Path, path_map: Sequence[tuple[str, str]], where: str) -> Path:
    """The path that `text` names. root, path_map: as for `_read_csv`. where: for messages."""
    for old, new in path_map:
        if text == old or text.startswith(old + "/"):
            text = new + text[len(old) :]
            break
    path = PurePosixPath(text)
    if ".." in path.parts:
        raise ValueError(f"{where}: '{text}' climbs out of its folder with '..'; write the path without it")
    return root / path
