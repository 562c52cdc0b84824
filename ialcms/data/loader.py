"""Preparing lanes in loader workers and putting their parts together.

Loader worker j of P prepares the rank's lanes j, j + P, ... of every step, one step after the other, each lane in
one process only: sound and pictures of a clip are decoded once while it is in the lane's window.
"""

from __future__ import annotations

import atexit
import errno
import logging
import math
import multiprocessing
import signal
import sys
import traceback
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ialcms.data.batch import Batch, objects_shape
from ialcms.data.clip_store import ClipStore
from ialcms.data.mixtures import MixArrays, make_mix
from ialcms.data.part_transport import SHARED_MEMORY, PipedPart, why_pipes
from ialcms.data.plan import Plan
from ialcms.data.prefetch import in_thread, on_gpu
from ialcms.data.remote import RemoteManifest
from ialcms.processes import end_with_parent
from ialcms.refusal import LostProcess

log = logging.getLogger(__name__)

STOP_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2})


@dataclass(frozen=True)
class Failure:
    """A ValueError of a loader worker; the DataLoader would wrap it in a traceback."""

    message: str


class LaneParts(IterableDataset[Batch | PipedPart | Failure]):
    """Batches of the lanes of one loader worker (of all lanes, when iterated in the training process).

    by_pipe: whether a loader worker hands its parts over through a pipe instead of shared memory.
    """

    def __init__(self, plan: Plan, lanes: range, start_step: int) -> None:
        self.plan, self.lanes, self.start_step = plan, lanes, start_step
        self.by_pipe = False

    def __iter__(self) -> Iterator[Batch | PipedPart | Failure]:
        info = get_worker_info()
        lanes = self.lanes if info is None else self.lanes[info.id :: info.num_workers]
        limit = most_clips(self.plan, len(lanes))
        store = ClipStore(self.plan.manifest, limit, self.plan.data.image_resize)
        step, cached_bytes = self.start_step, 0
        while True:
            try:
                part = self._part(store, lanes, step)
            except ValueError as error:
                yield Failure(str(error))
                return
            if (step - self.start_step) % self.plan.draws_per_round == 0:  # counting takes a while
                cached_bytes = store.num_bytes
            part.cached_bytes = cached_bytes
            yield PipedPart.of(part) if self.by_pipe and info is not None else part
            step += 1

    def part_bytes(self, num_lanes: int) -> int:
        """Bytes of the tensors of a part with `num_lanes` lanes."""
        data, samples = self.plan.data, self.plan.audio.num_samples
        pictures = math.prod(objects_shape(data))
        return num_lanes * (4 * samples * (1 + data.num_mixtures) + pictures)

    def _part(self, store: ClipStore, lanes: range, step: int) -> Batch:
        data = self.plan.data
        batch = Batch(
            step,
            torch.empty(len(lanes), self.plan.audio.num_samples),
            torch.empty(len(lanes), data.num_mixtures, self.plan.audio.num_samples),
            objects=torch.empty(len(lanes), *objects_shape(data), dtype=torch.uint8),
            keys=[],
            bad={},
        )
        manifest = self.plan.manifest
        if isinstance(manifest, RemoteManifest) and (step == self.start_step or step % self.plan.draws_per_round == 0):
            for lane in lanes:
                manifest.prefetch(self.plan.shards_to_prefetch(lane, step))
        mix, mixtures, objects = batch.mix.numpy(), batch.mixtures.numpy(), batch.objects.numpy()
        for row, lane in enumerate(lanes):
            made_of = make_mix(self.plan, store, lane, draw=step, out=MixArrays(mix[row], mixtures[row], objects[row]))
            batch.keys.append(made_of.keys)
            batch.bad.update(made_of.bad)
        return batch


def most_clips(plan: Plan, num_lanes: int) -> int:
    """Decoded clips that the process of `num_lanes` lanes caches at most: a window can grow to twice its size."""
    return 2 * plan.window * num_lanes


def load(
    plan: Plan, lanes: range, start_step: int, num_workers: int, prefetch: int, device: torch.device
) -> Generator[Batch]:
    """Batches of `lanes` from step `start_step` on, on `device`, without end.

    num_workers: at most the number of lanes; 0: everything in this process. prefetch: parts that each process
    prefetches. For a GPU, batches are joined in page-locked memory and copied in threads of their own, beside the
    training step. Raises ValueError when a process met one, RuntimeError when a process died.

    plan: of all lanes.
    """
    assert num_workers <= len(lanes)
    is_gpu = device.type == "cuda"
    batches = _joined(LaneParts(plan, lanes, start_step), num_workers, prefetch, pin=is_gpu)
    return on_gpu(in_thread(batches), device) if is_gpu else batches


def _joined(parts: LaneParts, num_workers: int, prefetch: int, pin: bool) -> Generator[Batch]:
    """Batches of all `parts`, in order. pin: join them in page-locked memory. num_workers, prefetch: as in `load`."""
    if num_workers == 0:
        for part in parts:
            yield _join([part], pin)
        return
    first = parts.lanes.start == 0  # of all ranks, the one that logs
    # a part more than those that are prefetched is on its way, and another one in use
    reason = why_pipes(parts.part_bytes(-(-len(parts.lanes) // num_workers)), num_workers * (prefetch + 2))
    parts.by_pipe = reason != ""
    if reason and first:
        log.warning("%s: batches come through pipes, which is slower", reason)
    # Not fork: the training process has threads (gloo, CUDA). The server of forked processes imports torch once.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", __name__])
    loader: DataLoader[Batch | PipedPart | Failure] = DataLoader(
        parts,
        batch_size=None,
        num_workers=num_workers,
        prefetch_factor=prefetch,
        multiprocessing_context=context,
        worker_init_fn=_init_process,
        generator=torch.Generator(),  # or it would draw from the training process's random numbers
    )
    before = set(multiprocessing.active_children())
    try:
        with blocked_signals():
            iterator: Any = iter(loader)
    except OSError as error:
        _kill(set(multiprocessing.active_children()) - before)  # Python would wait for them at its end
        _drop_quietly(error)
        if error.errno not in (errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.ENOSYS, errno.EACCES):
            raise
        if first:
            log.warning(
                "no loader workers can be started (%s; raise %s and 'ulimit -n'): data are loaded between the steps",
                error.strerror,
                SHARED_MEMORY,
            )
        yield from _joined(parts, 0, prefetch, pin=pin)
        return
    processes = iterator._workers
    kill = partial(_kill, processes)
    atexit.register(kill)
    try:
        while True:
            try:
                prepared = [next(iterator) for _ in range(num_workers)]
            except (RuntimeError, EOFError, ConnectionError) as error:  # which one depends on when the process died
                raise LostProcess(
                    f"a loader worker was lost ({error}); if memory ran out, lower data.window or data.loader_workers"
                ) from error
            yield _join(prepared, pin)
    finally:
        del iterator  # asks the processes to end and waits for them, unless a traceback still holds it
        kill()
        atexit.unregister(kill)


def _drop_quietly(error: BaseException) -> None:
    """Release an iterator that could not be made, without the error that torch's own clean-up of it prints."""
    hook = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    try:
        traceback.clear_frames(error.__traceback__)
    finally:
        sys.unraisablehook = hook


def _kill(processes: Iterable[BaseProcess]) -> None:
    """End processes that are still there. They have blocked SIGTERM, with which torch would do it."""
    for process in processes:
        process.kill()
    for process in processes:
        process.join()


def _join(parts: list[Batch | PipedPart | Failure], pin: bool) -> Batch:
    """Put the lanes j, j + P, ... of P parts in order."""
    good: list[Batch] = []
    for part in parts:
        if isinstance(part, Failure):
            raise ValueError(part.message)
        good.append(part.unpacked() if isinstance(part, PipedPart) else part)
    step, num_parts = good[0].step, len(good)
    assert all(part.step == step for part in good)
    if num_parts == 1:
        return good[0].pin_memory() if pin else good[0]
    num_rows = sum(len(part.keys) for part in good)

    def merge(tensors: list[torch.Tensor]) -> torch.Tensor:
        merged = torch.empty(num_rows, *tensors[0].shape[1:], dtype=tensors[0].dtype, pin_memory=pin)
        for j, tensor in enumerate(tensors):
            merged[j::num_parts] = tensor
        return merged

    keys: list[tuple[str, ...]] = [()] * num_rows
    for j, part in enumerate(good):
        keys[j::num_parts] = part.keys
    return Batch(
        step,
        merge([part.mix for part in good]),
        merge([part.mixtures for part in good]),
        objects=merge([part.objects for part in good]),
        keys=keys,
        bad={key: line for part in good for key, line in part.bad.items()},
        cached_bytes=sum(part.cached_bytes for part in good),
    )


def _init_process(_: int) -> None:
    torch.set_num_threads(1)
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # if the server of forked processes was there before
    # torch's own watchdog looks at the parent's process number, which is that of the server of forked processes: it
    # lives as long as its children do, and all of them would outlive a training process that was killed
    end_with_parent()


@contextmanager
def blocked_signals() -> Iterator[None]:
    """Processes started in here never see the signals by which the training process is asked to save or to stop.

    It decides for them: a loader worker that died of a SIGTERM sent to the whole job would take the last checkpoint
    along. They end when their DataLoader ends or when the training process is gone.
    """
    resource_tracker.ensure_running()  # unblocks some of the signals when it starts
    old = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
