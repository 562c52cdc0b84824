"""One job in a folder: a lock file that its owner renews, and that dies with its owner.

    with Lease(folder, "training", "--folder", name="the run's folder"):
        ...                                  # a second one raises ValueError, which names host and process

It needs no file locks, which many network file systems lack or only pretend to have: the file appears by a hard link,
and its owner counts up a number in it. Another job watches that number by its own clock: no two hosts' clocks are ever
compared. One that stands still for STALE_S is taken over; one whose process was on this machine and has ended, at
once. The owner sees that it was taken over by the name in the file, and must not write any more (`lost`).
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import platform
import secrets
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from ialcms.reading.text import parse_json

log = logging.getLogger(__name__)

FILE_NAME = ".lock"
RENEW_S = 3.0
STALE_S = 30.0
_POLL_S = 0.5
_COUNT_WIDTH = 12
_HIDDEN = "hidden"
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES)


@dataclass(frozen=True)
class Owner:
    """Who holds a folder, as the file says."""

    token: str  # random, of this lease
    purpose: str
    host: str
    process: int
    machine: str  # equal only where process numbers mean the same processes
    born: str  # distinguishes processes that have had the same number
    since: str  # by the owner's clock, to be shown

    def __str__(self) -> str:
        return f"process {self.process} on {self.host} ({self.purpose}, since {self.since})"

    def is_here(self) -> bool:
        """Whether this machine's processes show if it is alive."""
        return self.machine == _machine()

    def has_ended(self) -> bool:
        """Whether it is certain that the process is gone."""
        return self.is_here() and _born(self.process) not in (self.born, _HIDDEN)


class Lease:
    """Use as a context manager around all that writes into `folder`, which is made if it is not there.

    purpose: what the job is, for others to read; option: of the command line, that names another folder; name: what the
    folder is called before its path; unwritable: how the message for a folder that cannot be written begins. Entering
    raises ValueError when a living job holds the folder or when it cannot be written to.
    """

    def __init__(self, folder: Path, purpose: str, option: str, *, name: str, unwritable: str = "") -> None:
        """For the arguments see the class."""
        self.folder, self.option, self.name = folder, option, name
        self._unwritable = f"{unwritable} {folder}" if unwritable else f"{name} {folder} cannot be written"
        self._path = folder / FILE_NAME
        self._owner = Owner(
            secrets.token_hex(8),
            purpose,
            platform.node() or "an unnamed host",
            process=os.getpid(),
            machine=_machine(),
            born=_born(os.getpid()),
            since=time.strftime("%Y-%m-%d %H:%M:%S"),
        )
        self._count = 0
        self._made: list[Path] = []  # folders, innermost first
        self._descriptor = -1
        self._over, self._looking = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._renew_until_over, name="lease", daemon=True)
        self.lost = ""  # who has taken the folder over, in words

    @property
    def token(self) -> str:
        return self._owner.token

    def __enter__(self) -> Lease:
        try:
            self._make_folder()
            while not self._create():
                self._wait_for_owner()
        except OSError as error:
            self._remove_folders()
            raise ValueError(
                f"{self._unwritable} ({error.strerror or error}); make room there or choose another {self.option}"
            ) from error
        except BaseException:
            self._remove_folders()
            raise
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            os.close(self._descriptor)
        found = read_owner(self._path)
        if found is not None and found.token == self.token:
            with contextlib.suppress(OSError):
                self._path.unlink()
        self._remove_folders()

    def check(self) -> None:
        """Before something is written that must not be mixed with another job's: ValueError when the lease is lost."""
        self._look()
        if self.lost:
            raise ValueError(
                f"{self.name} {self.folder} was taken over by {self.lost}, because this process could not renew its "
                f"lock for {STALE_S:g} s; it writes nothing more there"
            )

    def _make_folder(self) -> None:
        missing = self.folder
        while not missing.exists():
            self._made.append(missing)
            missing = missing.parent
        self.folder.mkdir(parents=True, exist_ok=True)

    def _remove_folders(self) -> None:
        """Remove the folders that this lease has made, if they are empty."""
        for folder in self._made:
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _create(self) -> bool:
        """Create the file, whole, unless there is one."""
        temporary = self.folder / f"{FILE_NAME}-{self.token}"
        try:
            with open(temporary, "wb") as file:
                file.write(self._content())
                file.flush()
                _flush(file.fileno())
            try:
                os.link(temporary, self._path)
            except FileExistsError:
                # a network file system may repeat a request whose answer was lost: two links show that the first
                # one was done
                if temporary.stat().st_nlink != 2:
                    return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                return self._create_without_links()
        finally:
            temporary.unlink(missing_ok=True)
        self._descriptor = os.open(self._path, os.O_RDWR)
        return True

    def _create_without_links(self) -> bool:
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return False
        os.write(self._descriptor, self._content())
        _flush(self._descriptor)
        return True

    def _wait_for_owner(self) -> None:
        """Watch the file until its owner is seen to run (ValueError), has ended, or has not renewed it for STALE_S."""
        first = _read(self._path)
        still_s, looked, is_logged = 0.0, time.monotonic(), False
        owner = _parse(first)
        while owner is None or not owner.has_ended():
            if owner is not None and owner.is_here():
                raise self._refusal(owner)
            if owner is not None and still_s >= 2 * RENEW_S and not is_logged:
                is_logged = True
                log.warning("%s %s is held by %s: waiting to see whether it runs", self.name, self.folder, owner)
            time.sleep(_POLL_S)
            now = _read(self._path)
            if now is None:
                return
            if now != first:
                after = _parse(now)
                if owner is not None and after is not None and after.token == owner.token:
                    raise self._refusal(owner)
                return
            # a file system that does not answer for a while holds up the owner, too: that time does not count
            still_s += min(time.monotonic() - looked, 2 * _POLL_S)
            looked = time.monotonic()
            if still_s >= STALE_S:
                break
        self._take_away(first, owner)

    def _take_away(self, content: bytes | None, owner: Owner | None) -> None:
        """Remove a file that nobody renews, if it is still the one that was watched."""
        aside = self.folder / f"{FILE_NAME}-{self.token}-old"
        if content is None or _read(self._path) != content:
            return
        try:
            os.rename(self._path, aside)
        except FileNotFoundError:  # somebody else was faster
            return
        if _read(aside) != content:  # it has just been replaced: give it back
            with contextlib.suppress(OSError):
                os.link(aside, self._path)
            aside.unlink(missing_ok=True)
            return
        aside.unlink(missing_ok=True)
        who = str(owner) if owner else "an unknown job"
        why = "has ended" if owner and owner.has_ended() else f"has not renewed its lock for {STALE_S:g} s"
        log.warning("%s %s was held by %s, which %s: taken over", self.name, self.folder, who, why)

    def _refusal(self, owner: Owner) -> ValueError:
        return ValueError(
            f"{self.name} {self.folder} is in use by process {owner.process} on {owner.host} ({owner.purpose}, since "
            f"{owner.since}); wait for it, stop it, or choose another {self.option}"
        )

    def _renew_until_over(self) -> None:
        while not self._over.wait(RENEW_S):
            with contextlib.suppress(OSError):  # tried again; another job waits for STALE_S
                self._look()
                if self.lost:
                    return
                self._count += 1
                os.pwrite(self._descriptor, self._content(), 0)
                _flush(self._descriptor)

    def _look(self) -> None:
        """Notice another owner; put the file back where it was deleted."""
        with self._looking:
            content = _read(self._path)
            if content is None and self.folder.is_dir():
                old = self._descriptor
                if self._create():
                    os.close(old)
                    return
                content = _read(self._path)
            owner = _parse(content)
            if owner is not None and owner.token != self.token:
                self.lost = str(owner)

    def _content(self) -> bytes:
        """Of equal length at every count, so that writing it anew needs no room on the disk."""
        return json.dumps({"count": f"{self._count:0{_COUNT_WIDTH}d}", **vars(self._owner)}).encode()


def read_owner(path: Path) -> Owner | None:
    """Who a lock file says holds its folder; None where there is none, or one that cannot be read."""
    return _parse(_read(path))


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _parse(content: bytes | None) -> Owner | None:
    try:
        values: dict[str, Any] = parse_json(content or b"")
        taken: dict[str, Any] = {name: kind(values[name]) for name, kind in _FIELDS.items()}
        return Owner(**taken)
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


_FIELDS = {
    name: int if name == "process" else str
    for name in ("token", "purpose", "host", "process", "machine", "born", "since")
}


def _flush(descriptor: int) -> None:
    getattr(os, "fdatasync", os.fsync)(descriptor)  # macOS has the one, not the other


def process_name(process: int) -> str:
    """A name of a process of this machine that no other one has or will have."""
    return f"{_machine()} {process} {_born(process)}"


def _machine() -> str:
    """Of this boot of this machine, and of this container's processes."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def _born(process: int) -> str:
    """When a process of this machine began, by the kernel's clock; '' without one, _HIDDEN if that cannot be seen."""
    with contextlib.suppress(OSError):
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return "" if state in "ZX" else fields[18]
    try:  # another user's, or a system without /proc
        os.kill(process, 0)
    except ProcessLookupError:
        return ""
    except OSError:
        pass
    return _HIDDEN
