"""What a run tells: TensorBoard, a log file, JSON lines, a progress bar. The first worker writes, the others watch."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from ialcms.config import Config
from ialcms.engine import Workers
from ialcms.run_folder import RunFolder

log = logging.getLogger("ialcms")


class Monitor:
    """One writer and one curve, also over restarts: a resumed run purges what lies behind its first step."""

    def __init__(self, folder: RunFolder, config: Config, workers: Workers, first_step: int) -> None:
        self._every, self._workers, self._folder = config.train.log_every, workers, folder
        self._writer: SummaryWriter | None = None
        self._bar: tqdm | None = None
        self._mixes_per_step = config.train.global_batch
        self._since = time.monotonic()
        self._steps_since = 0
        self._waited_s = 0.0
        set_up_logging(folder, workers)
        if workers.is_first:
            self._writer = SummaryWriter(str(folder.tensorboard), purge_step=first_step if first_step else None)
            if sys.stderr.isatty():
                self._bar = tqdm(total=config.train.steps, initial=first_step, unit="step", dynamic_ncols=True)

    def step(self, step: int, scalars: Mapping[str, Tensor], weights: Mapping[str, float], waited_s: float) -> None:
        """Count a finished step (0-based). Scalars are only brought to the host, and agreed on, every `log_every`.

        waited_s: how long this worker waited for its batch.
        """
        self._steps_since += 1
        self._waited_s += waited_s
        if self._bar is not None:
            self._bar.update()
        if (step + 1) % self._every or not scalars:
            return
        names = sorted(scalars)
        means = self._workers.mean(torch.stack([scalars[name].float() for name in names])).tolist()
        now = time.monotonic()
        elapsed = now - self._since
        values = dict(zip(names, means)) | dict(weights)
        values["speed/mixes_per_second"] = self._steps_since * self._mixes_per_step / elapsed
        values["speed/step_seconds"] = elapsed / self._steps_since
        values["speed/share_waiting_for_data"] = self._waited_s / elapsed
        self._since, self._steps_since, self._waited_s = now, 0, 0.0
        self.record(step + 1, values)
        text = "  ".join(f"{name.rpartition('/')[2]} {values[name]:.3f}" for name in names if name.startswith("loss/"))
        speed = f"{values['speed/mixes_per_second']:.1f} mixes/s"
        if self._bar is not None:
            self._bar.set_postfix_str(f"{text}  {speed}")
        log.info("step %d  %s  %s", step + 1, text, speed, extra={"bar": True})

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Scalars after `step` finished steps, to TensorBoard and metrics.jsonl."""
        if self._writer is None:
            return
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        with open(self._folder.metrics, "a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def pause(self) -> None:
        """Forget the time since the last record: validation and checkpoints are not training."""
        self._since, self._steps_since, self._waited_s = time.monotonic(), 0, 0.0

    @property
    def writer(self) -> SummaryWriter | None:
        return self._writer

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._writer is not None:
            self._writer.close()


def set_up_logging(folder: RunFolder, workers: Workers) -> None:
    """Log lines of the first worker to its terminal and, appended, to train.log; only warnings of the others."""
    root = logging.getLogger("ialcms")
    root.setLevel(logging.INFO if workers.is_first else logging.WARNING)
    root.propagate = False
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    name = "" if workers.world_size == 1 or workers.is_first else f"[worker {workers.rank}] "
    console = _Console()
    console.setFormatter(logging.Formatter(name + "%(message)s"))
    root.addHandler(console)
    if workers.is_first:
        file = logging.FileHandler(folder.log)
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        root.addHandler(file)


class _Console(logging.Handler):
    """Lines above a progress bar, if one is on the terminal; the bar's own lines only where there is no terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        is_bar_line: Any = getattr(record, "bar", False)
        if not (is_bar_line and sys.stderr.isatty()):
            tqdm.write(self.format(record), file=sys.stderr)
