"""Limits of the machine that a process meets at its start: the length of socket names, the number of open files."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import resource
import shutil
import tempfile
from pathlib import Path

# Names of sockets have at most 107 characters; multiprocessing puts 32 of its own behind that of the folder.
_LONGEST_FOLDER = 70
_SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm", "/run/user/{user}", ".")


def prepare_process() -> None:
    """Put sockets where their names are short enough, and allow this process as many open files as it may have.

    ValueError where there is no folder for temporary files.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard and soft < 65_536:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536), hard)
        )
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError as error:
        raise ValueError(f"{error.strerror}; name a folder that can be written in TMPDIR") from error
    if len(os.fsencode(folder)) > _LONGEST_FOLDER:
        _use_short_folder(folder)


def _use_short_folder(long: str) -> None:
    """multiprocessing's sockets go elsewhere; temporary files stay where TMPDIR says."""
    for name in _SHORT_FOLDERS:
        folder = os.path.abspath(name.format(user=os.getuid()))
        if len(os.fsencode(folder)) > _LONGEST_FOLDER:
            continue
        try:
            made = tempfile.mkdtemp(prefix="ialcms-", dir=folder)
        except OSError:
            continue
        atexit.register(_remove, Path(made), os.getpid())
        # what multiprocessing.util.get_temp_dir looks at; child processes inherit it
        vars(multiprocessing.current_process())["_config"]["tempdir"] = made
        return
    raise ValueError(
        f"TMPDIR is {long}, too long for the names of sockets ({_LONGEST_FOLDER} characters are possible), and none of "
        f"{', '.join(_SHORT_FOLDERS)} can be written; name a folder with a shorter path in TMPDIR"
    )


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
