"""Which clips of a manifest take part, and whether they are enough."""

from __future__ import annotations

import difflib
from collections.abc import Collection

import numpy as np

from ialcms.data.manifest import SPLITS, Manifest


def select_clips(manifest: Manifest, split: str, instruments: Collection[str] = ()) -> np.ndarray:
    """Indices into manifest.clips of a split, restricted to `instruments` if there are any.

    Raises ValueError for an instrument that the manifest does not have, for an empty selection and for clips without
    sound or without boxes.
    """
    known = manifest.instruments()
    for name in instruments:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"it has {', '.join(known)}"
            raise ValueError(f"data.instruments names '{name}', which {manifest.folder} does not have; {hint}")
    table = manifest.table
    is_chosen = table.is_any("split", [split])
    if instruments:
        is_chosen &= table.is_any("instrument", instruments)
    chosen = np.flatnonzero(is_chosen)
    if not len(chosen):
        restricted = f" of {', '.join(sorted(instruments))}" if instruments else ""
        splits = ", ".join(f"{name} {len(manifest.of_split(name))}" for name in SPLITS)
        raise ValueError(
            f"{manifest.folder} has no clips{restricted} in the split '{split}' (clips: {splits}); "
            "pack shards with such clips or correct data.shards and data.instruments"
        )
    is_empty = (table.numbers["num_boxes"] == 0) | (table.numbers["num_samples"] == 0)
    for index in np.flatnonzero(is_empty & is_chosen)[:1].tolist():
        clip = manifest.clips[index]
        raise ValueError(
            f"clip {clip.key} in shard {manifest.shards[clip.shard].name} has {clip.num_samples} samples and "
            f"{clip.num_boxes} boxes, but needs both; drop it with 'ialcms data verify --fix'"
        )
    return chosen


def require_instruments(manifest: Manifest, split: str, present: Collection[str], needed: int, fields: str) -> None:
    """Raise a ValueError unless a mix can have `needed` different instruments.

    present: instruments that the `split` has. fields: of the configuration that say how many are `needed`.
    """
    if len(present) < needed:
        raise ValueError(
            f"a mix needs {needed} different instruments ({fields}), but the split '{split}' of {manifest.folder} has "
            f"{len(present)}: {', '.join(sorted(present))}; lower {fields} or add instruments"
        )
