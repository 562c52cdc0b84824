"""Writing checkpoints beside training: the state is copied to memory, a thread brings it to the disk."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import torch

from ialcms.config import Config
from ialcms.lease import Lease
from ialcms.runs import checkpoint
from ialcms.runs.checkpoint import Progress, State

log = logging.getLogger(__name__)

MAX_FAILURES = 3  # failed writes in a row after which the run stops


class CheckpointWriter:
    """One write at a time; a failed one warns, leaves the older checkpoints alone, and training continues.

    lease: of the run's folder; when it is lost nothing is written any more.
    """

    def __init__(self, root: Path, config: Config, manifest_digest: str, lease: Lease | None = None) -> None:
        """root: folder of the checkpoints. config, manifest_digest: written with each. lease: of the run's folder;
        None: not held.
        """
        self._root, self._config, self._manifest_digest, self._lease = root, config, manifest_digest, lease
        self._thread: threading.Thread | None = None
        self.failures = 0  # writes that failed since the last good one
        self.last_failure = ""
        self._began = time.monotonic()

    @property
    def failed(self) -> bool:
        return self.failures > 0

    @property
    def failed_for_good(self) -> bool:
        return self.failures >= MAX_FAILURES

    @property
    def shut_out(self) -> bool:
        """Whether another job has taken the folder over."""
        return self._lease is not None and self._lease.lost != ""

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint is due by the number of steps, which all ranks know."""
        return step % self._config.train.checkpoint_every == 0

    def is_overdue(self) -> bool:
        """Whether one is due by the minutes since the last."""
        minutes = (time.monotonic() - self._began) / 60
        return 0 < self._config.train.checkpoint_minutes <= minutes

    def write(self, state: State, progress: Progress, is_best: bool) -> None:
        """Copy the state now and write it in the background; waits for a write that is still under way."""
        self.wait()
        self._began = time.monotonic()
        copied = _to_memory(state)
        self._thread = threading.Thread(target=self._write, args=(copied, progress, is_best), name="checkpoint")
        self._thread.start()

    def amend(self, progress: Progress, is_best: bool) -> bool:
        """Put the outcome of a validation into the checkpoint of its step, and keep that as the best if it is.

        Waits for the write of that checkpoint. False where there is none: the write has failed, or the run was resumed
        from another folder.
        """
        self.wait()
        try:
            if self._lease is not None:
                self._lease.check()
            folder = checkpoint.amend(self._root, progress)
        except ValueError:  # the next whole write reports what is wrong
            return False
        self._tidy(folder, is_best)
        return True

    def wait(self) -> None:
        """Until what was to be written is on the disk, or has failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write(self, state: State, progress: Progress, is_best: bool) -> None:
        try:
            if self._lease is not None:
                self._lease.check()
        except ValueError as error:
            self.failures, self.last_failure = MAX_FAILURES, str(error)
            return
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            needed, free = _num_bytes(state), shutil.disk_usage(self._root).free
            if free < 1.1 * needed:
                raise OSError(f"it needs {needed / 1e6:.0f} MB and {free / 1e6:.0f} MB are free")
            folder = checkpoint.save(self._root, self._config, self._manifest_digest, state=state, progress=progress)
        except (OSError, RuntimeError) as error:  # torch turns some write errors into RuntimeError
            self.failures += 1
            self.last_failure = str(error).partition("\n")[0]
            log.warning(
                "the checkpoint of step %d could not be written to %s (%s); older ones are kept, training continues",
                progress.step,
                self._root,
                self.last_failure,
            )
            return
        self.failures = 0
        self._tidy(folder, is_best)

    def _tidy(self, folder: Path, is_best: bool) -> None:
        """Keep the best checkpoint and the newest ones."""
        try:
            if is_best:
                checkpoint.keep_as_best(folder)
            checkpoint.prune(self._root, self._config.train.keep_checkpoints)
        except OSError as error:
            log.warning("checkpoint %s is written, but older ones could not be tidied up (%s)", folder, error)


def _to_memory(value: Any) -> Any:
    """A deep copy with tensors on the CPU: training changes the originals in place."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _to_memory(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_to_memory(item) for item in value)
    return value


def _num_bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.nbytes
    if isinstance(value, dict):
        return sum(map(_num_bytes, value.values()))
    return sum(map(_num_bytes, value)) if isinstance(value, (list, tuple)) else 0
