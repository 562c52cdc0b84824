"""Shards that are not on a file system: fetched whole into a cache on this machine when a lane comes to them.

    open_manifest("/data/music")                              a folder
    open_manifest("https://example.org/music")                http, https, and what else WebDataset's gopen knows
    open_manifest("s3://bucket/music")                        by the `aws` command; gs:// by `gsutil`
    open_manifest("pipe:ssh storage cat /data/music/{}")      any command that writes the file {} to its output

The cache is WebDataset's: folder $WDS_CACHE (~/.cache/ialcms), at most $WDS_CACHE_SIZE bytes (100 GB) per data set.
Least recently used shards are evicted first. It should hold three shards per lane of the machine's ranks, or
shards are fetched more often than once a pass.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import logging
import os
import platform
import re
import shlex
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ialcms.data.cache_folder import cache_limit, cache_root
from ialcms.data.manifest import FILE_NAME, Clip, Manifest, manifest_path, read_manifest, refuse_tars
from ialcms.data.transfer import Stalled, read_chunks, reason, web_page

ATTEMPTS = 3
_CACHE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RemoteManifest(Manifest):
    """A manifest whose folder is the cache: asking for the path of a shard fetches it."""

    source: str = ""

    def on_this_machine(self) -> RemoteManifest:
        """The same, with the folder of this machine's cache. Raises ValueError when that cannot be used."""
        return dataclasses.replace(self, folder=_cache_of(self.digest))

    def shard_path(self, clip: Clip) -> Path:
        """The tar that holds a clip, in the cache; fetched first if it is not there. Raises as `fetch`."""
        return self.fetch(clip.shard)

    def fetch(self, shard_index: int) -> Path:
        """Path of a whole shard in the cache. Raises ValueError when it cannot be fetched or is not the manifest's."""
        shard = self.shards[shard_index]
        path = self.folder / shard.name
        if not _touch(path, shard.num_bytes):
            # one process of this machine fetches a shard, the others wait for it
            with self._locked(shard.name):
                if not _touch(path, shard.num_bytes):
                    self._download(shard.name, shard.num_bytes, path)
        return path

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        locks = self.folder.parent / "locks"
        try:
            locks.mkdir(exist_ok=True)
            lock = open(locks / f"{self.folder.name}-{name}.lock", "w")  # noqa: SIM115
        except OSError as error:
            raise _unusable(self.folder, error) from error
        with lock:
            with contextlib.suppress(OSError):  # a file system without locks: it may be fetched twice
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def prefetch(self, shard_indices: Iterable[int]) -> None:
        """Start to fetch shards that will be needed soon, without waiting for them."""
        for index in shard_indices:
            if not _is_whole(self.folder / self.shards[index].name, self.shards[index].num_bytes):
                threading.Thread(target=self._fetch_quietly, args=(index,), daemon=True).start()

    def _fetch_quietly(self, shard_index: int) -> None:
        try:
            self.fetch(shard_index)
        except ValueError as error:  # the loader tries again when it needs the shard, and reports it
            log.debug("%s", error)

    def _download(self, name: str, num_bytes: int, path: Path) -> None:
        """Put a whole shard into the cache, in several attempts; ValueError when that fails for good."""
        url = file_url(self.source, name)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)  # cut off, as by a machine that went down
            self._make_room(num_bytes)
        except OSError as error:
            raise _unusable(self.folder, error) from error
        temporary = path.with_name(f"{name}.temp{os.getpid()}")
        for attempt in range(ATTEMPTS):
            try:
                with open(temporary, "wb") as file:
                    for chunk in read_chunks(url):
                        file.write(chunk)
                found = temporary.stat().st_size
                if found == num_bytes:
                    os.replace(temporary, path)
                    return
                failure = ValueError(self._says_of_size(name, url, temporary, num_bytes=num_bytes))
            except OSError as error:
                if error.errno in _CACHE_ERRORS:
                    failure = _unusable(self.folder, error)
                else:
                    failure = ValueError(
                        f"shard {name} cannot be fetched from {url} ({reason(error)}); check the address in "
                        f"data.shards, the network and the space in {self.folder}"
                    )
            finally:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
            if attempt < ATTEMPTS - 1:
                log.warning("attempt %d of %d: %s", attempt + 1, ATTEMPTS, failure)
                time.sleep(2.0**attempt)
        raise failure

    def _make_room(self, num_bytes: int) -> None:
        """Evict the least recently used shards: for the limit, and where the disk is smaller than that."""
        from webdataset.cache import LRUCleanup  # here: shards in a folder need no WebDataset

        used = sum(file.stat().st_size for file in self.folder.glob("*") if file.is_file())
        room = used + 0.98 * shutil.disk_usage(self.folder).free
        if num_bytes > room:
            raise OSError(errno.ENOSPC, f"a shard of {num_bytes / 1e6:.0f} MB, {room / 1e6:.0f} MB are free")
        limit = min(cache_limit(), room)
        LRUCleanup(str(self.folder), max(int(limit) - num_bytes, 1), interval=None).cleanup()

    def _says_of_size(self, name: str, url: str, file: Path, num_bytes: int) -> str:
        """Why `file`, fetched as shard `name` from `url`, does not have its `num_bytes`."""
        with open(file, "rb") as content:
            page = web_page(content.read(1 << 16))
        if page:
            return (
                f"the server sends a web page ({page}) instead of shard {name} at {url}, as when a log-in is "
                "needed: log in, or have a command fetch the shards (data.shards='pipe:... {}')"
            )
        return (
            f"shard {name} at {url} has {file.stat().st_size} bytes, the manifest says {num_bytes}: manifest and "
            "shards do not belong together; copy them there again or pack again"
        )


def open_manifest(location: str | Path) -> Manifest:
    """Manifest of a folder, or of a remote data set whose shards are fetched when they are needed.

    Raises ValueError with a remedy when there is no manifest, or when it and a folder's shards do not fit.
    """
    location = str(location).removeprefix("file://")
    refuse_tars(location)
    if _is_folder(location):
        return read_manifest(location)
    url = file_url(location, FILE_NAME)
    raw = _read_manifest(url)
    folder = _cache_of(hashlib.sha256(raw).hexdigest()[:16])
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / FILE_NAME
        copy.write_bytes(raw)
        try:
            manifest = read_manifest(copy, check_shards=False)
        except ValueError as error:
            raise ValueError(str(error).replace(str(copy), url)) from error
    values = {field.name: getattr(manifest, field.name) for field in dataclasses.fields(Manifest)}
    return RemoteManifest(**(values | {"folder": folder}), source=location)


def source_identity(location: str | Path) -> int:
    """Equal on ranks that would read the same file as the manifest of `location`.

    Of a folder by number, size and time of the file: a file system that machines share shows all of them the same.
    What is fetched is fetched once for each machine and its cache.
    """
    location = str(location).removeprefix("file://")
    found: list[object] = [platform.node(), os.environ.get("WDS_CACHE")]
    if _is_folder(location):
        found = []
        with contextlib.suppress(OSError):
            stat = manifest_path(location).stat()
            found = [stat.st_ino, stat.st_size, stat.st_mtime_ns]
    return int.from_bytes(hashlib.blake2b(repr(found).encode(), digest_size=8).digest())


def _is_folder(location: str) -> bool:
    """Whether a location is one of the file system; a folder may be named 'pipe: organ'."""
    return Path(location).is_dir() or not re.match(r"pipe:|[a-z0-9]+://", location)


def _cache_of(digest: str) -> Path:
    """Folder of the shards of a manifest: a data set that was packed again does not meet the old one's shards."""
    folder = cache_root() / digest
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(folder, error) from error
    return folder


def _read_manifest(url: str) -> bytes:
    for attempt in range(ATTEMPTS):
        try:
            raw = b"".join(read_chunks(url))
            break
        except (OSError, ValueError) as error:
            if isinstance(error, Stalled) and attempt < ATTEMPTS - 1:
                log.warning("attempt %d of %d: %s from %s", attempt + 1, ATTEMPTS, error, url)
                continue
            raise ValueError(
                f"no {FILE_NAME} at {url} ({reason(error)}); correct data.shards or the network"
            ) from error
    if page := web_page(raw):
        raise ValueError(
            f"{url} answers with a web page ({page}) instead of {FILE_NAME}, as when a log-in is needed: log in, "
            "have a command fetch the files (data.shards='pipe:... {}'), or correct data.shards"
        )
    return raw


def _unusable(folder: Path, error: OSError) -> ValueError:
    return ValueError(
        f"the cache of shards {folder} cannot be used ({error.strerror or error}); make room there, or name a folder "
        "with room in WDS_CACHE"
    )


def file_url(source: str, name: str) -> str:
    """Where a file of a remote data set is, in the form that WebDataset's gopen takes."""
    if source.startswith("pipe:"):
        if "{}" not in source:
            raise ValueError(f"data.shards is '{source}'; a command needs {{}} where the file's name goes")
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
    except OSError:  # a cache that others have filled, and that is read only for us
        pass
    return True
