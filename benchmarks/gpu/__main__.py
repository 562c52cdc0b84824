"""The program: `python -m benchmarks.gpu`; see `benchmarks.gpu`."""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any

import benchmarks.gpu
from benchmarks.gpu.part import Outcome, Part, PartProcess
from benchmarks.gpu.report import LOG, TEXT, write_report
from benchmarks.gpu.setting import Setting

_TO_MAKE_SHARDS = ("soundfile", "scipy", "yaml", "tqdm", "PIL")
_TO_TEST = ("pytest", "soundfile", "scipy", "yaml", "tqdm")
_TO_TRAIN = ("soundfile", "yaml", "tqdm", "tensorboard", "scipy", "matplotlib")

# In the order of their importance: the last ones go first where time is short.
PARTS = (
    Part("environment", "the machine and its limits", least_s=10, most_s=60),  # with the first import, from a cold disk
    Part("numbers", "numbers of the device beside the CPU's", least_s=20, most_s=60),
    Part("steps", "steps of training: eager", least_s=25, most_s=50, arguments=("eager",)),
    Part("launches", "launches and waiting of a step", least_s=15, most_s=35),
    Part("gpu_tests", "tests marked gpu", least_s=30, most_s=75, needs=_TO_TEST),
    Part("cycle", "a cycle beside the naive form", least_s=25, most_s=75, needs=("yaml",)),
    Part("steps", "steps of training: CUDA graphs", least_s=20, most_s=45, arguments=("graphs",)),
    Part("training", "training on synthetic shards", least_s=45, most_s=125, needs=_TO_TRAIN, needs_shards=True),
    Part("loader", "loader beside the rate of steps", least_s=15, most_s=30, needs=("soundfile", "PIL"),
         needs_shards=True),
    Part("evaluation", "rate of an evaluation", least_s=15, most_s=30, needs=("soundfile", "scipy", "tqdm"),
         needs_shards=True),
    Part("ranks", "all GPUs of the machine", least_s=25, most_s=60, num_gpus=2),
    # on a CPU, compiling takes longer than all the rest
    Part("steps", "steps of training: compiled", least_s=45, most_s=100, num_gpus=1, arguments=("compiled",)),
)  # fmt: skip
SHARDS = Part("synthetic_shards", "synthetic shards", least_s=0, most_s=200, needs=_TO_MAKE_SHARDS)
_RESERVE_S = 6.0  # for the last process to end and the report
_BETWEEN_S = 5.0  # from ending a process to the next one, at the worst


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0 when it could measure, whatever became of single parts, 2 for input that it cannot use."""
    began = time.monotonic()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=benchmarks.gpu.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="it never takes longer (default: 8)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the report")
    parser.add_argument(
        "--device", choices=("auto", "cuda", "cpu"), default="auto", help="auto: a GPU, if there is one"
    )
    parser.add_argument("--small", action="store_true", help="small networks: a test of the benchmark itself")
    parser.add_argument("--parts", metavar="NAME,...", help=f"some parts only: {', '.join(_names())}")
    options = parser.parse_args(arguments)
    try:
        parts = _chosen(options.parts)
        if not options.minutes >= 0.2:
            raise ValueError(f"--minutes is {options.minutes:g}; give at least 0.2")
        device = _device(options.device)
        options.out.mkdir(parents=True, exist_ok=True)
        log = open(options.out / LOG, "w")  # noqa: SIM115 (closed at the end of the process)
    except (ValueError, OSError) as error:
        print(f"benchmarks.gpu: error: {error}", file=sys.stderr)
        return 2
    about = {
        "command": f"python -m benchmarks.gpu {' '.join(sys.argv[1:] if arguments is None else arguments)}",
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        "device": device,
        "num_gpus": _num_gpus(device),
        "small": options.small,
        "parts": options.parts,
        "minutes": options.minutes,
    }
    with log, tempfile.TemporaryDirectory(prefix="gpu-benchmark-", ignore_cleanup_errors=True) as work:
        run = _Run(parts, options.out, Path(work), about=about, log=log, deadline=began + 60 * options.minutes)
        signal.signal(signal.SIGTERM, run.interrupt)
        try:
            run.all()
        except KeyboardInterrupt:
            run.leave_out("interrupted")
        finally:
            run.close()
    print(f"\n{(options.out / TEXT).read_text()}\nreport: {options.out / TEXT}")
    return 0


class _Run:
    """Runs the parts one after the other, within the time that there is."""

    def __init__(
        self, parts: Sequence[Part], out: Path, work: Path, about: dict[str, Any], log: IO[str], deadline: float
    ) -> None:
        """out: folder of the results. work: folder of temporary files. about: the machine and the options, for the
        results. log: of what the parts print. deadline: on the monotonic clock, in seconds.
        """
        self._left = list(parts)
        self._out, self._work, self._log = out, work, log
        self._about, self._device = about, str(about["device"])
        self._deadline = deadline
        self._began = deadline - 60 * float(about["minutes"])
        self._shards = work / "shards"
        self._named = bool(about["parts"])  # somebody wants just these parts: on a CPU they do, too
        self._num_gpus = int(about["num_gpus"])
        self._shards_process: PartProcess | None = None
        self._next: PartProcess | None = None
        self.outcomes: list[Outcome] = []

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """A signal handler: `all` ends at once."""
        raise KeyboardInterrupt

    def all(self) -> None:
        """Every part, as long as there is time."""
        self._start_shards()
        while self._left:
            part = self._left.pop(0)
            reason = self._hindrance(part)
            if not reason and part.needs_shards:
                reason = self._wait_for_shards(part)
            seconds = self._seconds_for(part)
            if not reason and seconds < min(part.least_s, part.most_s * self._scale) and not self._about["small"]:
                reason = f"no time is left: {max(seconds, 0):.0f} s, it needs {part.least_s:.0f}"
            if not reason and seconds < 2:
                reason = "no time is left"
            if reason:
                self._add(Outcome(part.key, part.title, "left out", reason=reason))
                continue
            self._run_part(part, seconds)

    def leave_out(self, reason: str) -> None:
        """Record all parts that have not begun as left out, for a reason."""
        for part in self._left:
            self.outcomes.append(Outcome(part.key, part.title, "left out", reason=reason))
        self._left.clear()
        self._write()

    def close(self) -> None:
        """End all processes that are still there."""
        for process in (self._next, self._shards_process):
            if process is not None:
                process.end()

    @property
    def _scale(self) -> float:
        return float(self._about["minutes"]) / 8

    def _time_left(self) -> float:
        return self._deadline - _RESERVE_S - time.monotonic()

    def _seconds_for(self, part: Part) -> float:
        """Of what is left, without the least that the parts behind it need; but its own least before all."""
        left = self._time_left() - _BETWEEN_S
        behind = sum(_BETWEEN_S / 2 + p.least_s * min(self._scale, 1) for p in self._left if not self._hindrance(p))
        # small networks end by themselves, however slow the machine is
        most = part.most_s * (4 if self._about["small"] else max(self._scale, 0.1))
        return min(most, max(left - behind, min(part.least_s, left)))

    def _hindrance(self, part: Part) -> str:
        """Why a part cannot be measured here, '' when it can."""
        if missing := part.missing_modules():
            return f"{', '.join(missing)} is missing"
        if part.needs_shards and (missing := SHARDS.missing_modules()):
            return f"no synthetic shards: {', '.join(missing)} is missing"
        if part.num_gpus > self._num_gpus and not self._named:
            needed = "a GPU" if part.num_gpus == 1 else f"{part.num_gpus} GPUs"
            return f"needs {needed}; this machine shows {self._num_gpus} to torch"
        if importlib.util.find_spec(part.module_name) is None:
            return "this version does not have it"
        return ""

    def _start_shards(self) -> None:
        if any(part.needs_shards and not self._hindrance(part) for part in self._left):
            self._shards_process = PartProcess(SHARDS, self._device, self._log)
            self._shards_process.start(self._setting(SHARDS, SHARDS.most_s))

    def _wait_for_shards(self, part: Part) -> str:
        """Why there are no shards, '' when they are there."""
        if self._shards_process is not None:
            patience_s = max(self._seconds_for(part) - part.least_s * self._scale, 0)
            outcome = self._shards_process.finish(patience_s)
            outcome.seconds = 0.0  # beside other parts: its rows say how long
            self._shards_process = None
            self._add(outcome)
        return "" if (self._shards / "manifest.json").is_file() else "there are no synthetic shards"

    def _run_part(self, part: Part, seconds: float) -> None:
        process = self._next if self._next is not None and self._next.part is part else None
        if process is None:
            process = PartProcess(part, self._device, self._log)
        self._next = self._prepare_next()
        print(f"[{time.monotonic() - self._began:5.0f} s] {part.title} (at most {seconds:.0f} s)", flush=True)
        process.start(self._setting(part, seconds))
        try:
            self._add(process.finish(seconds))
        finally:
            process.end()

    def _prepare_next(self) -> PartProcess | None:
        """The process of the part behind, which imports what it needs in the meantime."""
        for part in self._left:
            if not self._hindrance(part):
                return PartProcess(part, self._device, self._log)
        return None

    def _setting(self, part: Part, seconds: float) -> Setting:
        rows = self._work / f"rows-{part.key.replace(' ', '-')}.jsonl"
        earlier = {outcome.part: outcome.rows for outcome in self.outcomes}
        small = bool(self._about["small"])
        # so that it ends by itself as a rule
        own_s = max(seconds - max(4.0, 0.1 * seconds), 0.5 * seconds)
        return Setting(
            self._device,
            small,
            own_s,
            work=str(self._work),
            rows=str(rows),
            since=time.monotonic(),
            shards=str(self._shards),
            earlier=earlier,
        )

    def _add(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        reason = f" ({outcome.reason})" if outcome.reason else ""
        print(f"[{time.monotonic() - self._began:5.0f} s] {outcome.title}: {outcome.status}{reason}", flush=True)
        self._write()

    def _write(self) -> None:
        waiting = [Outcome(part.key, part.title, "to come") for part in self._left]
        about = self._about | {"elapsed_s": time.monotonic() - self._began}
        write_report(self._out, about, [*self.outcomes, *waiting])


def _names() -> list[str]:
    return list(dict.fromkeys(part.name for part in PARTS))


def _chosen(names: str | None) -> list[Part]:
    """The parts of these names, in the benchmark's order."""
    if names is None:
        return list(PARTS)
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in _names()]
    if unknown or not wanted:
        raise ValueError(f"--parts has no part '{', '.join(unknown)}'; choose from {', '.join(_names())}")
    return [part for part in PARTS if part.name in wanted]


def _device(wanted: str) -> str:
    if wanted == "cpu":
        return "cpu"
    try:
        import torch
    except ImportError as error:
        raise ValueError(f"torch is missing ({error}); the benchmark needs torch, torchvision and NumPy") from error
    if torch.cuda.is_available():
        return "cuda"
    if wanted == "cuda":
        raise ValueError("torch sees no GPU here; look at nvidia-smi and CUDA_VISIBLE_DEVICES, or use --device cpu")
    return "cpu"


def _num_gpus(device: str) -> int:
    if device == "cpu":
        return 0
    import torch

    return torch.cuda.device_count()


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # a process that even SIGKILL does not reach must not hold us up
