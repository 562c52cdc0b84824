"""Lists of mixes in CSV: a line per source, so that the `mixes.csv` of an evaluation is such a list, too.

    mix,clip,box,start
    0,violin_7_3,12,0
    0,tuba_2_1,0,22050
    1,...

Sources of the same `mix` are summed. `box` is the row of the clip's detections whose picture guides the separator,
`start` the first sample of the sound at the shards' rate; both are 0 where the columns are missing. Other columns are
not read.
"""

from __future__ import annotations

import csv
from collections.abc import Collection
from pathlib import Path

from ialcms.csv_cells import text_cell
from ialcms.data.evaluation_mixes import EvaluationMix
from ialcms.data.manifest import Manifest
from ialcms.files import open_text
from ialcms.names import ENCODING_ERRORS, is_utf8
from ialcms.reading import shown


def read_mix_list(path: Path, manifest: Manifest) -> list[EvaluationMix]:
    """The mixes of a CSV file in the order of their first lines, numbered from 0.

    Raises ValueError that names file and line for an unknown clip, a box that the clip does not have, a number that is
    none, a mix of a single source, and one with a clip twice: of two sounds with one picture, either could be meant.
    """
    if not path.is_file():
        raise ValueError(f"list of mixes {path} does not exist")
    sources: dict[str, list[tuple[int, int, int]]] = {}
    try:
        with open_text(path, ENCODING_ERRORS) as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            rows = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise ValueError(f"list of mixes {path} cannot be read ({error.strerror}); make it readable") from error
    missing = {"mix", "clip"} - set(reader.fieldnames or ())
    if missing:
        raise ValueError(f"{path} has no column '{min(missing)}'; its first line must be like mix,clip,box,start")
    index_of = _indices_of({row["clip"] for _, row in rows}, manifest)
    for number, row in rows:
        where = f"{path}, line {number}"
        index = index_of.get(row["clip"])
        if index is None and not is_utf8(row["clip"] or ""):
            raise ValueError(f"list of mixes {path} is not UTF-8 text; save it as CSV in UTF-8")
        if index is None:
            raise ValueError(f"{where}: there is no clip {shown(row['clip'])} in {manifest.folder}")
        box, start = (_count(row.get(name), name, where) for name in ("box", "start"))
        clip = manifest.clips[index]
        if box >= clip.num_boxes:
            raise ValueError(f"{where}: clip '{clip.key}' has no box {box}; give 0 to {clip.num_boxes - 1}")
        if start >= clip.num_samples:
            raise ValueError(f"{where}: clip '{clip.key}' has {clip.num_samples} samples, none from {start} on")
        parts = sources.setdefault(row["mix"], [])
        if any(index == other for other, _, _ in parts):
            raise ValueError(f"{where}: mix {row['mix']} has clip '{clip.key}' already; name another clip")
        parts.append((index, box, start))
    if not sources:
        raise ValueError(f"{path} lists no mixes")
    for name, parts in sources.items():
        if len(parts) < 2:
            raise ValueError(f"{path}: mix {name} has one source only; a mix needs two or more lines")
    mixes = []
    for number, parts in enumerate(sources.values()):
        clips, boxes, starts = zip(*parts)
        mixes.append(EvaluationMix(number, clips, boxes, starts=starts))
    return mixes


def _indices_of(keys: Collection[str | None], manifest: Manifest) -> dict[str | None, int]:
    """Indices into manifest.clips of the clips with these keys, or with keys that an evaluation writes so."""
    exact: dict[str | None, int] = {}
    as_written: dict[str | None, int] = {}
    for index, key in enumerate(manifest.table.key):
        if key in keys:
            exact[key] = index
        if (cell := text_cell(key)) in keys:
            as_written[cell] = index
    return as_written | exact


def _count(text: str | None, name: str, where: str) -> int:
    try:
        value = int(text or 0)
    except ValueError:
        value = -1
    if value < 0:
        raise ValueError(f"{where}: {name} is {shown(text)}; it must be a whole number, 0 or more")
    return value
