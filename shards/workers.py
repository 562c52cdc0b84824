"""Work on many processes with a bounded number of results in memory, and a progress bar for it."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import multiprocessing.queues
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")

LOG_INTERVAL_S = 15.0


class Progress:
    """A bar with rate and remaining time on a terminal, a plain line now and then in a log file."""

    def __init__(self, total: int, description: str, unit: str = "clip") -> None:
        self._bar = tqdm(total=total, desc=description, unit=unit, disable=not sys.stderr.isatty(), file=sys.stderr)
        self._total, self._description, self._unit = total, description, unit
        self._done, self._skipped, self._start = 0, 0, time.monotonic()
        self._last_line = self._start

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def skip(self, count: int) -> None:
        """Pieces that an earlier run has finished: they do not count for the rate."""
        self._skipped += count
        if not self._bar.disable:
            self._bar.initial += count
        self._bar.update(count)

    def advance(self, count: int = 1) -> None:
        self._bar.update(count)
        self._done += count
        now = time.monotonic()
        if self._bar.disable and self._done and now - self._last_line > LOG_INTERVAL_S:
            self._last_line = now
            rate = self._done / (now - self._start)
            done = self._skipped + self._done
            left_s = (self._total - done) / rate
            line = f"{self._description}: {done}/{self._total} {self._unit}s, {rate:.1f}/s, {left_s:.0f} s left"
            print(line, file=sys.stderr, flush=True)


def default_jobs() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_threads(
    function: Callable[[Item], Result], items: Sequence[Item], jobs: int, description: str, unit: str
) -> list[Result]:
    """`map` on `jobs` threads with a progress bar: for work that waits for a file system."""
    with Progress(len(items), description, unit) as progress, ThreadPoolExecutor(jobs) as executor:
        results = []
        for result in executor.map(function, items):
            results.append(result)
            progress.advance()
        return results


_asset: Any = None


def asset() -> Any:
    """Within a function that `map_ordered` calls: what this process has for its own, such as a GPU."""
    return _asset


def map_ordered(
    function: Callable[[Item], Result], items: Iterable[Item], jobs: int, assets: Sequence[Any] = ()
) -> Generator[Result, None, None]:
    """`map` on `jobs` processes: results in the order of the items, a few per process in memory at most.

    `assets`, as many as jobs, are handed out one to a process. With one job everything runs in this process. Raises
    ValueError when a process dies (memory, a signal).
    """
    assert len(assets) in (0, jobs)
    if jobs <= 1:
        global _asset
        _asset = assets[0] if assets else None
        yield from map(function, items)
        return
    # "spawn": the calling program may hold threads (torch), which a fork would copy in an undefined state
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    for item in assets or [None] * jobs:
        queue.put(item)
    executor = ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker, initargs=(queue,))
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(executor.submit(function, item))
            if len(pending) >= 4 * jobs:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise ValueError(
            "a worker process died, most likely for want of memory; start again with fewer --jobs: "
            "what is finished is kept"
        ) from error
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _start_worker(assets: multiprocessing.queues.SimpleQueue) -> None:
    """Ctrl-C is the parent's to handle; but without a parent, killed, a worker would wait for work for ever."""
    global _asset
    _asset = assets.get()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent(sentinel: int) -> None:
        multiprocessing.connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, args=(parent.sentinel,), daemon=True).start()
