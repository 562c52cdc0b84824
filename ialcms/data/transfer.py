"""Bytes from elsewhere, by WebDataset's gopen, with a time limit of our own.

gopen starts a command (curl, gsutil, aws, what a user writes behind `pipe:`), and a server that has accepted the
connection and then sends nothing would hold it for good.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STALL_S = 60.0  # without a single byte, after which a transfer is given up
_CHUNK = 1 << 20
# What curl's exit codes mean, as far as a user can do something about it
_CURL = {
    "6": "the host name is not known",
    "7": "nobody answers there",
    "22": "the server refuses it, as when it is not there or a log-in is needed",
    "28": "it took too long to connect",
    "35": "no encrypted connection could be made",
    "60": "the server's certificate is not trusted",
}


class Stalled(OSError):
    """Nothing came for a while."""


def read_chunks(url: str) -> Iterator[bytes]:
    """What is at a URL, piece by piece; OSError when the command fails, Stalled when nothing comes for STALL_S."""
    from webdataset.gopen import Pipe, gopen  # here: shards in a folder need no WebDataset

    stream = gopen(url)
    if not isinstance(stream, Pipe):
        with stream:
            while chunk := stream.read(_CHUNK):
                yield chunk
        return
    try:
        descriptor = stream.stream.fileno()
        while True:
            ready, _, _ = select.select([descriptor], [], [], STALL_S)
            if not ready:
                raise Stalled(f"no bytes for {STALL_S:g} s")
            chunk = os.read(descriptor, _CHUNK)
            if not chunk:
                break
            yield chunk
    except BaseException:
        _end(stream)
        raise
    stream.close()  # raises OSError for a command that failed


def reason(error: BaseException) -> str:
    """What went wrong, in one line; WebDataset names a command that failed with all its arguments."""
    exit_code = re.search(r"exit (-?\d+) \(read\)", str(error))
    if exit_code is None:
        return " ".join(str(error).split())
    meaning = _CURL.get(exit_code[1], "") if "'curl'" in str(error) else ""
    return f"exit code {exit_code[1]}{f' of curl: {meaning}' if meaning else ''}"


def web_page(content: bytes) -> str:
    """The title of a web page, '' for anything else: a server may answer with one where a file was asked for."""
    beginning = content[:4096].lstrip().lower()
    if not beginning.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")):
        return ""
    title = re.search(rb"<title[^>]*>(.*?)</title>", content[:65536], re.IGNORECASE | re.DOTALL)
    text = " ".join(title[1].decode("utf-8", "replace").split()) if title else ""
    return "".join(letter for letter in text[:60] if letter.isprintable()) or "without a title"


def _end(stream: Any) -> None:
    """End a command with all that it has started: a shell alone would leave the program behind that it waits for."""
    for process in [*_descendants(stream.proc.pid), stream.proc.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    stream.proc.wait()
    stream.stream.close()


def _descendants(process: int) -> list[int]:
    """Processes that a process has started, and those that they have (Linux)."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):  # it has just ended
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(folder.name))
    found = list(parents.get(process, []))
    for child in found:  # grows while it is gone through
        found += parents.get(child, [])
    return found
