"""Work on many processes: pools with one numerical thread a process, which end with the process that started them.

Results are kept in bounded number; Ctrl-C is the owner's to handle.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.queues
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Literal, TypeVar

from ialcms.progress import Progress

Item = TypeVar("Item")
Result = TypeVar("Result")

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def available_cores() -> int:
    """Cores that this process may use: a batch system may have granted fewer than the machine has, a container less
    of their time.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = _quota()
    return cores if limit is None else max(1, min(cores, round(limit)))


def cores_of_a_rank() -> int:
    """Of the cores of this machine, the share of each of the job's ranks here; at least one."""
    return max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def _quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Cores' worth of time that a container may use (`docker run --cpus 2.5`); None without a limit."""
    # cgroup 2 has quota and period in one file, cgroup 1 in two
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = map(float, " ".join((root / name).read_text() for name in names).split())
        except (OSError, ValueError):  # no such files, or no limit ("max")
            continue
        if quota > 0 and period > 0:
            return quota / period
    return None


@contextlib.contextmanager
def one_thread_per_process() -> Iterator[None]:
    """Processes started inside get one numerical thread each: many at once would only fight for the cores.

    Numerical libraries read their number of threads when they load, before the process could set it.
    """
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def end_with_parent() -> None:
    """End this process, a child made by multiprocessing, when its parent is gone.

    A parent that was killed cannot end its children: they would wait for work for ever.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


_asset: Any = None


def asset() -> Any:
    """Within a function that `map_ordered` calls: what this process has for its own, such as a GPU."""
    return _asset


@contextlib.contextmanager
def worker_pool(
    jobs: int, assets: Sequence[Any] = (), start: Literal["spawn", "forkserver"] = "spawn"
) -> Iterator[ProcessPoolExecutor]:
    """A pool of `jobs` fresh processes with one numerical thread each; what is not started at the end is dropped.

    assets: as many as jobs, handed out one to a process (see `asset`). start: never "fork", as the calling program may
    hold threads (torch), which a fork would copy in an undefined state. One job gets a process too: the numbers are
    then the same as with many, whatever number of threads the caller has.
    """
    assert len(assets) in (0, jobs)
    context = multiprocessing.get_context(start)
    queue = context.SimpleQueue()
    for item in assets or [None] * jobs:
        queue.put(item)
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_process, initargs=(queue,))
    try:
        with one_thread_per_process():
            yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _start_process(assets: multiprocessing.queues.SimpleQueue) -> None:
    global _asset
    _asset = assets.get()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the owner's to handle
    end_with_parent()


def map_threads(
    function: Callable[[Item], Result], items: Sequence[Item], jobs: int, description: str, unit: str
) -> list[Result]:
    """`map` on `jobs` threads with a progress bar: for work that waits for a file system.

    function: of one of the `items`. description, unit: of the bar.
    """
    with Progress(len(items), description, unit) as progress, ThreadPoolExecutor(jobs) as executor:
        results = []
        for result in executor.map(function, items):
            results.append(result)
            progress.advance()
        return results


def map_ordered(
    function: Callable[[Item], Result], items: Iterable[Item], jobs: int, assets: Sequence[Any] = ()
) -> Generator[Result, None, None]:
    """`map` on `jobs` processes: results in the order of the items, a few per process in memory at most.

    `assets`, as many as jobs, are handed out one to a process. With one job everything runs in this process. Raises
    ValueError when a process dies (memory, a signal).

    function: of an item.
    """
    assert len(assets) in (0, jobs)
    if jobs <= 1:
        global _asset
        _asset = assets[0] if assets else None
        yield from map(function, items)
        return
    pending: deque[Future[Result]] = deque()
    try:
        with worker_pool(jobs, assets) as pool:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= 4 * jobs:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise ValueError(
            "a worker process died, most likely for want of memory; start again with fewer --jobs: "
            "what is finished is kept"
        ) from error
