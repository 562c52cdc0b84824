"""Getting batches ready while the training process computes: in a thread, and on its GPU."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator
from contextlib import closing
from typing import TypeVar

import torch

from ialcms.data.batch import Batch

T = TypeVar("T")


def in_thread(items: Generator[T], depth: int = 2) -> Generator[T]:
    """The same items, made in a thread that keeps up to `depth` of them ready.

    An error of the thread is raised where its item would have come.
    """
    ready: queue.Queue[tuple[T] | BaseException] = queue.Queue(depth)
    stop = threading.Event()

    def put(item: tuple[T] | BaseException) -> None:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    gpu = torch.cuda.current_device() if torch.cuda.is_available() else None

    def run() -> None:
        if gpu is not None:
            torch.cuda.set_device(gpu)  # a thread begins on GPU 0, whichever its process uses
        try:
            for item in items:
                put((item,))
                if stop.is_set():
                    return
            put(StopIteration())
        except Exception as error:  # handed over to the thread that asked for the items
            put(error)
        finally:
            items.close()

    thread = threading.Thread(target=run, name="batches", daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, StopIteration):
                return
            if isinstance(item, BaseException):
                raise item
            yield item[0]
    finally:
        stop.set()
        thread.join()


def on_gpu(batches: Generator[Batch], device: torch.device) -> Generator[Batch]:
    """Batches of page-locked memory, on a GPU. A thread prefetches up to two, beside the computation.

    The copies have a CUDA stream of their own; the stream that is current when a batch is taken waits for its copy,
    the program does not.
    """

    def copied() -> Generator[tuple[Batch, torch.cuda.Event]]:
        stream = torch.cuda.Stream(device)
        with closing(batches):
            for batch in batches:
                with torch.cuda.stream(stream):
                    copy, is_there = batch.to(device), stream.record_event()
                yield copy, is_there

    with closing(in_thread(copied())) as prefetched:
        for batch, is_there in prefetched:
            stream = torch.cuda.current_stream(device)
            stream.wait_event(is_there)
            for tensor in (batch.mix, batch.mixtures, batch.objects):
                tensor.record_stream(stream)  # or a later copy could take its memory before this stream is done with it
            yield batch
