"""What a run tells: TensorBoard, a log file, JSON lines, a progress bar. Rank 0 writes, the others watch."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import math
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from tqdm import tqdm

from ialcms.config import Config
from ialcms.engine import Ranks, waited_s
from ialcms.files import write_whole
from ialcms.monitoring.tensorboard import BEST_SCORE, Curves
from ialcms.monitoring.visuals import View
from ialcms.reading import printable
from ialcms.reading.text import parse_json
from ialcms.runs.run_folder import RunFolder

log = logging.getLogger("ialcms")

_SCORE = "validation/SDR"
# Losses on the bar and in the log's lines: name there -> scalar.
_SHOWN = {"sep": "loss/separation", "avc": "loss/consistency", "ind": "loss/independence", "critic": "loss/critic"}
_BAR = "{percentage:3.0f}%|{bar:12}| {desc}"


class Monitor:
    """One writer and one curve, also over restarts: a resumed run drops what lies behind its first step."""

    def __init__(self, folder: RunFolder, config: Config, ranks: Ranks, first_step: int) -> None:
        """first_step: finished steps at the start."""
        self._config, self._ranks, self._folder = config, ranks, folder
        self._train = config.train
        self._curves: Curves | None = None
        self._full = False  # whether something could not be written since the last checkpoint
        self._bar: tqdm | None = None
        self._left = _TimeLeft(config.train.steps)
        self._figures = ""  # losses and speed at the last record
        self._score: float | None = None
        self._best: float | None = None
        self._since_record: list[Mapping[str, Tensor]] = []
        self.pause()
        set_up_logging(folder, ranks)
        if ranks.is_first:
            self._score, self._best = _last_scores(drop_records_after(folder.metrics, first_step))
            self._curves = Curves(folder.tensorboard, config, first_step)
            if sys.stderr.isatty():
                steps = config.train.steps
                self._bar = tqdm(desc=f"{first_step}/{steps}", total=steps, initial=first_step, bar_format=_BAR,
                                 dynamic_ncols=True)  # fmt: skip

    def records(self, step: int) -> bool:
        """Whether scalars are recorded after step `step` (0-based)."""
        return (step + 1) % self._train.log_every == 0

    def step(self, step: int, scalars: Mapping[str, Tensor], values: Mapping[str, float], waited_s: float) -> None:
        """Count a finished step (0-based); every `log_every` steps record the means of all scalars since the last time.

        scalars stay on the device until then, and ranks agree on their means in one exchange. values are the same on
        all ranks and recorded as they are. waited_s: how long this rank waited for its batch.
        """
        self._since_record.append(scalars)
        self._timed_steps += 1
        self._waited_s += waited_s
        self._left.count(step + 1)
        if self._bar is not None:
            self._bar.set_description_str(self._line(step + 1), refresh=False)
            self._bar.update()
        if not self.records(step):
            return
        means, speed = self._exchange()
        sent = self._ranks.traffic.take()
        sent_mb = {f"sent_mb/{kind}": num_bytes / 1e6 / len(self._since_record) for kind, num_bytes in sent.items()}
        self._since_record.clear()
        self.pause()
        self.record(step + 1, {**means, **values, **speed, **sent_mb})
        losses = [f"{name} {means[tag]:.3f}" for name, tag in _SHOWN.items() if tag in means]
        rate = [f"{speed['speed/mixes_per_second']:.1f} mixes/s"] if speed else []
        self._figures = "  ".join([*rate, *self._scores(), *losses])
        if self._bar is not None:
            self._bar.set_description_str(self._line(step + 1))
        log.info("step %s", self._line(step + 1), extra={"bar": True})

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Scalars after `step` finished steps, to TensorBoard and metrics.jsonl."""
        self._write(lambda curves: curves.scalars(step, values))
        if not self._ranks.is_first:
            return
        # JSON has no word for infinity and no number
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        try:
            with open(self._folder.metrics, "a") as file:
                file.write(json.dumps({"step": step, "time": round(time.time(), 3), **finite}) + "\n")
        except OSError as error:
            self._missed(error)

    def record_validation(self, step: int, scalars: Mapping[str, float], text: str) -> None:
        """Figures of a validation after `step` finished steps; the time that it took is not training."""
        self.record(step, scalars)
        self._score = scalars.get(_SCORE)
        log.info("validation after step %d: %s", step, text)
        self.pause()

    def record_best(self, step: int, score: float) -> None:
        """The best validation SDR so far, in dB."""
        self._best = score
        self.record(step, {BEST_SCORE: score})

    def show(self, step: int, views: Sequence[View]) -> None:
        """Pictures and sounds after `step` finished steps."""
        self._write(lambda curves: curves.views(step, views))
        self.pause()

    def pause(self) -> None:
        """Forget the time since the last record: validation and checkpoints are not training."""
        self._since, self._timed_steps, self._waited_s = time.monotonic(), 0, 0.0
        self._in_collectives_since = waited_s()

    def flush(self, step: int) -> None:
        """Bring all events to disk: before a checkpoint, so that a run that goes on from it has no gap.

        step: finished steps. Curves that could not be written go on here, if there is room again.
        """
        self._full = False
        if self._curves is None and self._ranks.is_first:
            try:
                self._curves = Curves(self._folder.tensorboard, self._config, step)
            except OSError as error:
                self._missed(error)
        self._write(Curves.flush)

    def finish(self) -> None:
        """Mark the run as complete, where runs are compared."""
        self._write(Curves.finish)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._write(Curves.close)

    def _write(self, write: Callable[[Curves], None]) -> None:
        """Curves are not worth a run: what cannot be written is missed, and training goes on."""
        if self._curves is None:
            return
        try:
            write(self._curves)
        except OSError as error:  # TensorBoard's writer does not recover from it
            self._curves = None
            self._missed(error)

    def _missed(self, error: OSError) -> None:
        if not self._full:
            log.warning("curves cannot be written to %s (%s); training goes on, they have a gap", self._folder.path,
                        error.strerror)  # fmt: skip
        self._full = True

    def _exchange(self) -> tuple[dict[str, float], dict[str, float]]:
        """Means of the scalars over steps and ranks, and speed; the only place where a step waits for the device."""
        names = sorted({name for scalars in self._since_record for name in scalars})
        means = [
            torch.stack([scalars[name].float() for scalars in self._since_record if name in scalars]).mean()
            for name in names
        ]
        elapsed_s = time.monotonic() - self._since
        collectives_s = min(waited_s() - self._in_collectives_since, elapsed_s)
        step_s = elapsed_s / max(self._timed_steps, 1)
        shares = self._waited_s / elapsed_s, collectives_s / elapsed_s
        own = torch.tensor([step_s, *shares, *_peak_memory_gb(self._ranks.device)])
        local = torch.cat([torch.stack(means), own.to(means[0].device)]) if means else own
        rows = self._ranks.gather(local.unsqueeze(0).to(self._ranks.device)).tolist()  # a row per rank
        count = len(names)
        scalars = {name: sum(row[n] for row in rows) / len(rows) for n, name in enumerate(names)}
        return scalars, self._speed([row[count:] for row in rows]) if self._timed_steps else {}

    def _speed(self, rows: Sequence[Sequence[float]]) -> dict[str, float]:
        """rows: per rank step seconds, shares waiting for data and for ranks, memory of process and of device.

        A rank's own rate and step time leave out its waiting for the others.
        """
        seconds, for_data, for_ranks, process_gb, device_gb = zip(*rows)
        mean_s = sum(seconds) / len(rows)
        own_s = [of_step * (1 - share) for of_step, share in zip(seconds, for_ranks)]
        mixes = self._train.global_batch
        values = {
            "speed/mixes_per_second": mixes / mean_s,
            "speed/step_seconds": mean_s,
            "speed/slowest_rank_step_seconds": max(own_s),
            "speed/slowest_rank": float(own_s.index(max(own_s))),
            "speed/share_waiting_for_data": sum(for_data) / len(rows),
            "speed/longest_share_waiting_for_data": max(for_data),
            "speed/share_waiting_for_ranks": sum(for_ranks) / len(rows),
            "memory/process_gb": max(process_gb),
        }
        if self._ranks.device.type == "cuda":
            values["memory/device_gb"] = max(device_gb)
        for rank in range(len(rows)):
            values[f"speed_by_rank/mixes_per_second/{rank}"] = mixes / len(rows) / max(own_s[rank], 1e-9)
            values[f"speed_by_rank/step_seconds/{rank}"] = own_s[rank]
            values[f"speed_by_rank/share_waiting_for_data/{rank}"] = for_data[rank]
        return values

    def _line(self, step: int) -> str:
        """What the bar shows and the log's lines say, the most important first: a narrow terminal cuts the end off."""
        return "  ".join(filter(None, (f"{step}/{self._train.steps}", self._left.text(step), self._figures)))

    def _scores(self) -> list[str]:
        if self._score is None:
            return []
        best = "" if self._best is None or self._best <= self._score else f" (best {self._best:.2f})"
        return [f"SDR {self._score:.2f}{best}"]


class _TimeLeft:
    """From the mean time of a step so far, validations and checkpoints among it; the first step, which sets things up,
    is left out."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._first: tuple[int, float] | None = None  # finished steps, and when

    def count(self, step: int) -> None:
        if self._first is None:
            self._first = step, time.monotonic()

    def text(self, step: int) -> str:
        if self._first is None or step == self._first[0]:
            return ""
        first, since = self._first
        left_s = (time.monotonic() - since) / (step - first) * (self._steps - step)
        return f"{datetime.timedelta(seconds=round(left_s))} left"


def learning_rates(separator: Optimizer, critic: Optimizer | None) -> dict[str, float]:
    """Rates by their names in the log: the separator's groups have names of their own."""
    rates = {f"learning_rate/{group['name']}": float(group["lr"]) for group in separator.param_groups}
    if critic is not None:
        rates["learning_rate/critic"] = float(critic.param_groups[0]["lr"])
    return rates


def drop_records_after(path: Path, step: int) -> list[dict[str, Any]]:
    """Take the lines of later steps, and one that a kill cut off, out of a metrics.jsonl; returns those that stay."""
    if not path.is_file():
        return []
    lines, rows = [], []
    for line in path.read_text(errors="replace").splitlines(keepends=True):
        try:
            row = parse_json(line)
            if line.endswith("\n") and row["step"] <= step:
                lines.append(line)
                rows.append(row)
        except (ValueError, KeyError, TypeError):
            log.warning("%s: dropped a damaged line", path)
    write_whole(path, "".join(lines))
    return rows


def _last_scores(rows: Sequence[Mapping[str, Any]]) -> tuple[float | None, float | None]:
    """The last validation's SDR and the best one's, from the records of an earlier start; None without one."""
    last: dict[str, float | None] = {}
    for row in rows:
        last |= {name: row[name] for name in (_SCORE, BEST_SCORE) if name in row}
    return last.get(_SCORE), last.get(BEST_SCORE)


def _peak_memory_gb(device: torch.device) -> tuple[float, float]:
    """Largest so far: of this process in main memory, and of its tensors on the device (0 without one)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes; bytes on macOS
    process_gb = peak / (1e9 if sys.platform == "darwin" else 1e6)
    return process_gb, torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else 0.0


def set_up_logging(folder: RunFolder, ranks: Ranks) -> None:
    """Log lines of rank 0 to its terminal and, appended, to train.log; only warnings of the others."""
    root = logging.getLogger("ialcms")
    root.setLevel(logging.INFO if ranks.is_first else logging.WARNING)
    root.propagate = False
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    name = "" if ranks.world_size == 1 or ranks.is_first else f"[rank {ranks.rank}] "
    console = _Console(ranks.is_first)
    console.setFormatter(_Plain(name + "%(message)s"))
    root.addHandler(console)
    if ranks.is_first:
        file = _LogFile(folder.log)
        file.setFormatter(_Plain("%(asctime)s %(levelname)s %(message)s"))
        root.addHandler(file)


class _Plain(logging.Formatter):
    """Names in the lines come from data: their control characters are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """A line that a full disk does not take is on the terminal all the same."""


class _Console(logging.Handler):
    """Lines above a progress bar, if one is on the terminal; the bar's own lines only where there is no terminal."""

    def __init__(self, owns_bar: bool) -> None:
        super().__init__()
        self._owns_bar = owns_bar

    def emit(self, record: logging.LogRecord) -> None:
        is_bar_line: Any = getattr(record, "bar", False)
        on_terminal = sys.stderr.isatty()
        if is_bar_line and on_terminal:
            return
        # Another rank's bar may stand in the line: wipe it out, its owner draws it again.
        wipe = "\r\x1b[K" if on_terminal and not self._owns_bar else ""
        with contextlib.suppress(OSError):  # a closed terminal, a pipe without a reader: training goes on
            tqdm.write(wipe + self.format(record), file=sys.stderr)
