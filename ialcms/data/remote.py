"""Shards that are not on a file system: fetched whole into a cache on this machine when a lane comes to them.

    open_manifest("/data/music")                              a folder
    open_manifest("https://example.org/music")                http, https, and what else WebDataset's gopen knows
    open_manifest("s3://bucket/music")                        by the `aws` command; gs:// by `gsutil`
    open_manifest("pipe:ssh storage cat /data/music/{}")      any command that writes the file {} to its output

The cache is WebDataset's: folder $WDS_CACHE (~/.cache/ialcms), at most $WDS_CACHE_SIZE bytes (100 GB) per data set.
Shards that were not read for longest go first. It should hold three shards per lane of the machine's workers, or
shards are fetched more often than once a pass.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import logging
import os
import re
import shlex
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ialcms.data.manifest import FILE_NAME, Clip, Manifest, read_manifest, refuse_tars

ATTEMPTS = 3

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RemoteManifest(Manifest):
    """A manifest whose folder is the cache: asking for the path of a shard fetches it."""

    source: str = ""

    def shard_path(self, clip: Clip) -> Path:
        return self.fetch(clip.shard)

    def fetch(self, shard_index: int) -> Path:
        """Path of a whole shard in the cache. Raises ValueError when it cannot be fetched or is not the manifest's."""
        shard = self.shards[shard_index]
        path = self.folder / shard.name
        if not _touch(path, shard.num_bytes):
            locks = self.folder.parent / "locks"
            locks.mkdir(exist_ok=True)
            # one process of this machine fetches a shard, the others wait for it
            with open(locks / f"{self.folder.name}-{shard.name}.lock", "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not _touch(path, shard.num_bytes):
                    path.unlink(missing_ok=True)  # cut off, as by a machine that went down; the cache would keep it
                    self._download(shard.name, shard.num_bytes, path)
        return path

    def fetch_ahead(self, shard_indices: Iterable[int]) -> None:
        """Start to fetch shards that will be needed soon, without waiting for them."""
        for index in shard_indices:
            if not _is_whole(self.folder / self.shards[index].name, self.shards[index].num_bytes):
                threading.Thread(target=self._fetch_quietly, args=(index,), daemon=True).start()

    def _fetch_quietly(self, shard_index: int) -> None:
        try:
            self.fetch(shard_index)
        except ValueError as error:  # whoever needs the shard will try again, and say so
            log.debug("%s", error)

    def _download(self, name: str, num_bytes: int, path: Path) -> None:
        from webdataset.cache import FileCache  # here: shards in a folder need no WebDataset

        url = file_url(self.source, name)
        size_limit = float(os.environ.get("WDS_CACHE_SIZE", 100e9))
        cache = FileCache(
            str(self.folder),
            url_to_name=lambda _: name,
            validator=lambda _: True,
            cache_size=max(int(size_limit) - num_bytes, 1),
            cache_cleanup_interval=0,
        )
        for attempt in range(ATTEMPTS):
            last = attempt == ATTEMPTS - 1
            try:
                cache.get_file(url)
                found = path.stat().st_size
                if found == num_bytes:
                    break
                path.unlink()
                if last:
                    raise ValueError(
                        f"shard {name} at {url} has {found} bytes, the manifest says {num_bytes}: manifest and shards "
                        "do not belong together; copy them there again or pack again"
                    )
            except OSError as error:
                Path(f"{path}.temp{os.getpid()}").unlink(missing_ok=True)
                if last:
                    raise ValueError(
                        f"shard {name} cannot be fetched from {url} ({_line(error)}); check the address in "
                        f"data.shards, the network and the space in {self.folder}"
                    ) from error
            time.sleep(2.0**attempt)


def open_manifest(location: str | Path) -> Manifest:
    """Manifest of a folder, or of a remote data set whose shards are fetched when they are needed.

    Raises ValueError with a remedy when there is no manifest, or when it and a folder's shards do not fit.
    """
    location = str(location).removeprefix("file://")
    refuse_tars(location)
    if Path(location).is_dir() or not re.match(r"pipe:|[a-z0-9]+://", location):  # a folder may be named 'pipe: organ'
        return read_manifest(location)
    from webdataset.gopen import gopen

    root = Path(os.environ.get("WDS_CACHE", "~/.cache/ialcms")).expanduser()
    url = file_url(location, FILE_NAME)
    try:
        with gopen(url) as stream:
            raw = stream.read()
    except (OSError, ValueError) as error:
        raise ValueError(f"no {FILE_NAME} at {url} ({_line(error)}); correct data.shards or the network") from error
    # under the digest of its content: a data set that was packed again does not meet the old one's shards
    folder = root / hashlib.sha256(raw).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as temporary:
        copy = Path(temporary) / FILE_NAME
        copy.write_bytes(raw)
        manifest = read_manifest(copy, check_shards=False)
    values = {field.name: getattr(manifest, field.name) for field in dataclasses.fields(Manifest)}
    return RemoteManifest(**(values | {"folder": folder}), source=location)


def file_url(source: str, name: str) -> str:
    """Where a file of a remote data set is, in the form that WebDataset's gopen takes."""
    if source.startswith("pipe:"):
        if "{}" not in source:
            raise ValueError(f"data.shards is '{source}'; a command needs {{}} in the place of the file's name")
        return source.replace("{}", shlex.quote(name))
    url = f"{source.rstrip('/')}/{name}"
    return f"pipe:aws s3 cp --quiet {shlex.quote(url)} -" if source.startswith("s3://") else url


def _is_whole(path: Path, num_bytes: int) -> bool:
    try:
        return path.stat().st_size == num_bytes
    except FileNotFoundError:
        return False


def _touch(path: Path, num_bytes: int) -> bool:
    """Mark a file as just used; False when it is not there, or has another size."""
    if not _is_whole(path, num_bytes):
        return False
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _line(error: BaseException) -> str:
    """What went wrong, in one line; WebDataset tells of a command that failed with all its arguments."""
    exit_code = re.search(r"exit (\d+) \(read\)", str(error))
    return f"exit code {exit_code[1]}" if exit_code else " ".join(str(error).split())
