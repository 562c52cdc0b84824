"""Where files are kept that were fetched or made from others: the folder $WDS_CACHE, ~/.cache/ialcms without it."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """Folder of all data sets' caches; ValueError for a user without a home folder."""
    try:
        return Path(os.environ.get("WDS_CACHE") or "~/.cache/ialcms").expanduser()
    except RuntimeError as error:
        raise ValueError("there is no home folder to keep shards in; name a folder with room in WDS_CACHE") from error


def cached_columns(manifest_sha256: str) -> list[Path]:
    """Where the columns of a manifest are kept that do not lie beside it; nowhere for a user without a home folder."""
    try:
        return [cache_root() / "manifests" / f"{manifest_sha256[:16]}.columns"]
    except ValueError:
        return []


def cache_limit() -> float:
    """Bytes that a data set's cache of shards may take."""
    text = os.environ.get("WDS_CACHE_SIZE", "100e9")
    try:
        limit = float(text)
    except ValueError:
        limit = 0.0
    if not limit > 0:
        raise ValueError(f"WDS_CACHE_SIZE is {text!r}; give a number of bytes, like 200e9")
    return limit
