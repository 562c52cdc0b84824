"""What a piece of a program asks of the null GPU: counts from the library, and the lines that make the host wait."""

from __future__ import annotations

import ctypes
import os
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tests.null_gpu.operators import replace_operators

_ROOT = Path(__file__).parents[2]


@dataclass
class Watched:
    """Of the time inside `NullGpu.watch`."""

    counts: dict[str, int] = field(default_factory=dict)  # by kind; "launches" are all
    num_bytes: dict[str, int] = field(default_factory=dict)
    synchronisations: Counter[str] = field(default_factory=Counter)  # by line of the program

    @property
    def launches(self) -> int:
        return self.counts["launches"]


class NullGpu:
    """The library that this process was started with; makes torch ready for it."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(os.environ["NULL_GPU"])
        self._library.null_gpu_report.restype = ctypes.c_char_p
        assert torch.cuda.is_available(), "the null GPU was not loaded before CUDA's own libraries"
        replace_operators(self._library)
        warnings.filterwarnings("ignore", message=".*synchronizing CUDA operation")
        torch.set_num_threads(1)
        torch.istft = self._answering(False, torch.istft)  # asks whether the window's envelope is too small
        self.answer(True)

    def answer(self, value: bool) -> None:
        """What a single byte from the device says: whether all values of a tensor are finite, for example."""
        self._library.null_gpu_answer(int(value))

    def _answering(self, value: bool, function: Callable) -> Callable:
        def answered(*args: Any, **kwargs: Any) -> Any:
            self.answer(value)
            try:
                return function(*args, **kwargs)
            finally:
                self.answer(not value)

        return answered

    @contextmanager
    def watch(self) -> Iterator[Watched]:
        watched = Watched()
        self._library.null_gpu_reset()
        with _noting_synchronisations(watched.synchronisations):
            yield watched
        for line in self._library.null_gpu_report().decode().splitlines():
            kind, count, num_bytes = line.split("\t")
            watched.counts[kind], watched.num_bytes[kind] = int(count), int(num_bytes)


@contextmanager
def _noting_synchronisations(positions: Counter[str]) -> Iterator[None]:
    """torch warns of those that it knows of; what waits by name is noted here."""

    def note(*args: Any, **kwargs: Any) -> None:
        message = str(args[0])
        if "called a synchronizing CUDA operation" in message:
            positions[_position()] += 1

    def noting(function: Callable) -> Callable:
        def noted(*args: Any, **kwargs: Any) -> Any:
            positions[_position()] += 1
            return function(*args, **kwargs)

        return noted

    waiting = [(torch.cuda, "synchronize"), (torch.cuda.Stream, "synchronize"), (torch.cuda.Event, "synchronize")]
    originals = [getattr(owner, name) for owner, name in waiting]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        for (owner, name), original in zip(waiting, originals):
            setattr(owner, name, noting(original))
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
            for (owner, name), original in zip(waiting, originals):
                setattr(owner, name, original)


def _position() -> str:
    """File and line of this project that the current call comes from, and where in a library it waits, if there."""
    frames = [frame for frame in traceback.extract_stack() if "/tests/null_gpu/" not in frame.filename]
    frames = [frame for frame in frames if Path(frame.filename).name != "warnings.py"]
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(_ROOT / "ialcms")]
    if not own:  # a thread of autograd: no Python of ours is on it
        return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "autograd"
    position = f"{Path(own[-1].filename).relative_to(_ROOT)}:{own[-1].lineno}"
    if "deepspeed" in frames[-1].filename.split(os.sep):
        position += f" in DeepSpeed's {Path(frames[-1].filename).name}"
    return position
