"""The manifest beside the shards: what every clip is and where its bytes lie.

A shard is a plain WebDataset tar; a clip is the run of its members that share a key:

    <key>.flac (or .wav)     mono sound
    <key>.<frame>.jpg        the frames that have kept boxes; <frame> is the number in the frame's file name, %06d
    <key>.npy                kept detections, float32 (D, 7): frame_index, class_id, confidence, x1, y1, x2, y2 in
                             pixels of the packed frame
    <key>.json               {"clip", "instrument", "video", "split", "sample_rate", "num_samples", ...}

A clip's members lie side by side: the `size` bytes from `offset` on hold its tar headers and contents and nothing
else. `manifest.json` is what makes planning, exact resume and verification possible. Beside it lies `manifest.columns`
(table_file.py), the same in a form that processes share and map instead of parsing it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ialcms.data.cache_folder import cached_columns
from ialcms.data.clip_table import Clip, ClipTable, OfSplit, Shard
from ialcms.data.manifest_checks import SPLITS, check_manifest_values, is_file_name, is_text
from ialcms.data.manifest_json import FORMAT, VERSION, OtherFormat, header_values, json_pieces, parse_manifest
from ialcms.data.members import Naming
from ialcms.data.table_file import SUFFIX, map_columns, sha256_of_columns, write_columns
from ialcms.files import replacing
from ialcms.reading import one_line, shown

__all__ = [
    "FILE_NAME", "FORMAT", "SPLITS", "VERSION", "Clip", "Manifest", "Shard", "check_values", "is_file_name", "is_text",
    "manifest_path", "read_manifest", "refuse_tars", "write_manifest",
]  # fmt: skip

FILE_NAME = "manifest.json"

_REMAKE = "write it again with 'ialcms data pack', or from the shards: move it away, then 'ialcms data verify --fix'"
# One tar or many: train.tar, train-{000000..000099}.tar, train-*.tar, a.tar::b.tar, also compressed ones.
_TARS = re.compile(r"\.(tar|tgz)(\.\w+)?$|::|\{[^{}/]*(\.\.|,)[^{}/]*\}|\.tar[*?]")
_FEW_BYTES = 4_000_000  # a manifest.json without columns is parsed in about a quarter of a second

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Manifest:
    """What the shards of a folder hold. Immutable: a changed one is written as a new file."""

    folder: Path  # where manifest and shards lie
    sample_rate: int
    shards: tuple[Shard, ...]
    clips: Sequence[Clip]  # in shard order, then in file order; a ClipTable, whatever sequence is given
    info: dict[str, Any]  # how the shards were made: packer's options, seed, cleaning, ...
    digest: str = ""  # of the manifest file's contents

    def __post_init__(self) -> None:
        object.__setattr__(self, "clips", ClipTable.of(self.clips))

    @property
    def table(self) -> ClipTable:
        """The clips as columns."""
        assert isinstance(self.clips, ClipTable)
        return self.clips

    def indices_of(self, split: str) -> np.ndarray:
        """Indices into `clips` of those of a split."""
        return np.flatnonzero(self.table.is_any("split", [split]))

    def of_split(self, split: str) -> Sequence[Clip]:
        """The clips of a split, in the order of the manifest."""
        return OfSplit(self.table, self.indices_of(split))

    def instruments(self, split: str | None = None) -> list[str]:
        """Sorted names of the instruments, of one split or of all."""
        return self.table.distinct("instrument", slice(None) if split is None else self.indices_of(split))

    @property
    def naming(self) -> Naming:
        """How the members of its clips are named."""
        return Naming.of(self.info)

    def on_this_machine(self) -> Manifest:
        """The same, of another rank's: with the folder that the shards lie in here."""
        return self

    def shard_path(self, clip: Clip) -> Path:
        """The tar that holds a clip."""
        return self.folder / self.shards[clip.shard].name


def write_manifest(manifest: Manifest) -> Path:
    """Write `manifest.json` and `manifest.columns`, each whole: under a temporary name, flushed, renamed.

    Raises ValueError when that fails.
    """
    path = manifest.folder / FILE_NAME
    values = header_values(manifest.sample_rate, manifest.info, manifest.shards)
    sha256 = hashlib.sha256()
    try:
        with replacing(path) as temporary:
            with open(temporary, "wb") as file:
                for piece in json_pieces(values, manifest.table):
                    file.write(piece.encode())
                    sha256.update(piece.encode())
            # Before the JSON has its name: a kill in between leaves columns that no manifest.json fits.
            write_columns(columns_of(path), manifest.table, values, manifest_sha256=sha256.hexdigest())
    except OSError as error:
        raise ValueError(
            f"cannot write {path}: {error.strerror or error}; make room or choose another folder"
        ) from error
    return path


def columns_of(path: Path) -> Path:
    """Where the columns of a manifest.json lie."""
    return path.with_name(path.name.removesuffix(".json") + SUFFIX)


def read_manifest(folder: str | Path, check_shards: bool = True) -> Manifest:
    """Read and check the manifest of a folder of shards.

    Raises ValueError with a remedy when it is missing, damaged, of another format or version, or (with check_shards)
    when a shard is missing or has another size than the manifest says.
    """
    refuse_tars(str(folder))
    path = manifest_path(folder)
    folder = path.parent
    if not path.is_file():
        raise ValueError(f"no {FILE_NAME} in '{folder}'; {_how_to_make_one(folder)}")
    try:
        manifest = _from_columns(path) or _from_json(path)
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}); make it readable or correct data.shards"
        ) from error
    if check_shards:
        check_shard_sizes(manifest)
    return manifest


def manifest_path(folder: str | Path) -> Path:
    """The manifest.json of a folder of shards; the folder may be named by that file, too."""
    folder = Path(folder)
    return folder / FILE_NAME if folder.is_dir() or not folder.suffix else folder


def check_shard_sizes(manifest: Manifest) -> None:
    """Raises ValueError for a shard that is missing or has another size than the manifest says."""
    for shard in manifest.shards:
        file = manifest.folder / shard.name
        if not file.is_file():
            raise ValueError(f"shard {file} is missing; the manifest lists it: copy it there or pack again")
        if file.stat().st_size != shard.num_bytes:
            raise ValueError(
                f"shard {file} has {file.stat().st_size} bytes, the manifest says {shard.num_bytes}: "
                "manifest and shards do not belong together; copy them again or pack again"
            )


def _from_columns(path: Path) -> Manifest | None:
    """The manifest from its columns, beside it or in the cache; None where there are none, or damaged ones."""
    beside, is_small = columns_of(path), path.stat().st_size < _FEW_BYTES
    made_from = sha256_of_columns(beside)
    if is_small and not made_from:
        return None
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    candidates = [] if is_small else [kept for kept in cached_columns(sha256) if sha256_of_columns(kept) == sha256]
    if made_from == sha256:
        candidates.insert(0, beside)
    for columns in candidates:
        try:
            return _mapped(columns, path.parent)
        except (OSError, KeyError, TypeError, ValueError) as error:
            log.warning("%s cannot be used (%s): reading %s instead", columns, one_line(error), path)
    return None


def _mapped(columns: Path, folder: Path) -> Manifest:
    """Raises KeyError, TypeError or ValueError for damaged columns, and OSError as the system does."""
    found = map_columns(columns)
    shards = tuple(Shard(**shard) for shard in found.values["shards"])
    rate, info = found.values["sample_rate"], found.values["info"]
    check_manifest_values(rate, info, shards, clips=found.table)
    return Manifest(folder, rate, shards, clips=found.table, info=info, digest=found.manifest_sha256[:16])


def _from_json(path: Path) -> Manifest:
    try:
        parsed = parse_manifest(path)
        values = parsed.values
        shards = tuple(Shard(**shard) for shard in values["shards"])
        rate, info = values["sample_rate"], values["info"]
        check_manifest_values(rate, info, shards, clips=parsed.table)
    except OtherFormat as error:
        if error.version is None:
            raise ValueError(f"{path} is not a manifest of {FORMAT}; write one with 'ialcms data pack'") from None
        raise ValueError(
            f"{path} has version {shown(error.version)}, this program reads {VERSION}; pack the shards again"
        ) from None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({one_line(error)}); {_REMAKE}") from error
    table = parsed.table
    if path.stat().st_size >= _FEW_BYTES:
        table = _cached(table, header_values(rate, info, shards), parsed.sha256, path=path)
    return Manifest(path.parent, rate, shards, clips=table, info=info, digest=parsed.sha256[:16])


def _cached(table: ClipTable, values: dict[str, Any], sha256: str, path: Path) -> ClipTable:
    """The table, mapped from a file in the cache, which the next process need not make again; where that can be.

    values: what the manifest says beside the clips. sha256: of the manifest. path: of the manifest, for the log.
    """
    with contextlib.suppress(OSError, ValueError):
        for columns in cached_columns(sha256):
            write_columns(columns, table, values, manifest_sha256=sha256)
            log.info("%s has no columns beside it: they are kept in %s from now on", path, columns)
            return map_columns(columns).table
    return table


def refuse_tars(location: str) -> None:
    """Raises ValueError where tars are named instead of their folder, as other programs take them."""
    if location.startswith("pipe:") or not _TARS.search(location) or Path(location).is_dir():
        return
    folder = Path(location.partition("::")[0]).parent
    remedy = f"give data.shards={folder}"
    if re.match(r"[a-z0-9]+://", location):
        remedy = "make it where the tars lie with 'ialcms data adopt', then give the folder's address"
    elif not (folder / FILE_NAME).is_file():
        tars = " ".join(shlex.quote(part) for part in location.split("::"))
        remedy = f"make it with: ialcms data adopt {tars}, then {remedy}"
    raise ValueError(f"data.shards is '{location}', but must name a folder with a {FILE_NAME}; {remedy}")


def _how_to_make_one(folder: Path) -> str:
    if folder.is_dir() and next(folder.glob("*.tar"), None) is not None:
        return f"it has tars: make the {FILE_NAME} with 'ialcms data adopt {folder}'"
    return "pack shards with 'ialcms data pack', or correct data.shards"


def check_values(manifest: Manifest) -> None:
    """Raises ValueError for values of a wrong kind, for ones that contradict each other, and for impossible sizes."""
    check_manifest_values(manifest.sample_rate, manifest.info, manifest.shards, clips=manifest.table)
