"""A part of the benchmark: what it needs, how long it may take, and its process."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from benchmarks.gpu.setting import Setting, read_rows

ROOT = Path(__file__).parents[2]
_GRACE_S = 3.0  # between asking a process to end and ending it


@dataclass(frozen=True)
class Part:
    """A part of the benchmark: what it needs, and the bounds of its time."""

    name: str  # also its module in benchmarks.gpu.parts, where none is named
    title: str
    least_s: float  # it is left out where less is left; what later parts need at least is kept for them
    most_s: float  # of a run of eight minutes
    needs: tuple[str, ...] = ()  # modules beside torch, torchvision and NumPy
    num_gpus: int = 0  # GPUs that it needs; 0: it runs on a CPU, too
    needs_shards: bool = False
    arguments: tuple[str, ...] = ()  # of its module's `measure`
    module: str = ""

    @property
    def key(self) -> str:
        return " ".join((self.name, *self.arguments))

    @property
    def module_name(self) -> str:
        return self.module or f"benchmarks.gpu.parts.{self.name}"

    def missing_modules(self) -> list[str]:
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


@dataclass
class Outcome:
    """What became of a part."""

    part: str
    title: str
    status: str  # done, failed, out of time, left out
    reason: str = ""
    seconds: float = 0.0
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def environment_of(device: str) -> dict[str, str]:
    """Of the processes: they find this checkout, and see no GPU where none is asked for."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    values = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    return values if device == "cuda" else values | {"CUDA_VISIBLE_DEVICES": ""}


class PartProcess:
    """The process of a part. It imports what it needs when it starts, and measures on request."""

    def __init__(self, part: Part, device: str, log: IO[str]) -> None:
        self.part = part
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.gpu.child", part.module_name, *part.arguments],
            cwd=ROOT,
            env=environment_of(device),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def start(self, setting: Setting) -> None:
        """Have it measure."""
        self._setting, self._began = setting, time.monotonic()
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(dataclasses.asdict(setting)) + "\n")
            self._process.stdin.close()
        except BrokenPipeError:  # it has ended already; `finish` says how
            pass

    def finish(self, seconds: float) -> Outcome:
        """Wait for `seconds` at most, then end it; what it has measured until then counts."""
        outcome = Outcome(self.part.key, self.part.title, "done")
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            outcome.status, outcome.reason = "out of time", f"ended after {time.monotonic() - self._began:.0f} s"
        else:
            if code:
                how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                outcome.status, outcome.reason = "failed", f"its process ended with {how}; see the log"
        self.end()
        outcome.seconds = time.monotonic() - self._began
        outcome.rows = read_rows(Path(self._setting.rows))
        return outcome

    def end(self) -> None:
        """End the process and what it has started."""
        end_group(self._process)


def end_group(process: subprocess.Popen) -> None:
    """Ask the processes of a session to end, then end them. One that even that does not reach is left behind."""
    for number, wait_s in ((signal.SIGTERM, _GRACE_S), (signal.SIGKILL, 2.0)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(wait_s)
        except subprocess.TimeoutExpired:
            continue
