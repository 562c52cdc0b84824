"""The project's own tests marked `gpu` that fit the machine."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections import Counter

from benchmarks.gpu.part import ROOT, end_group, environment_of
from benchmarks.gpu.setting import Recorder, Setting

_RESULT = re.compile(r"^(\S+::.*?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)(?: \((.*?)\)?)?\s*(?:\[.*\])?$")


def measure(setting: Setting, recorder: Recorder) -> None:
    """Results are counted as they come, so that those of a run that is cut off are there."""
    files = marked_files()
    recorder.add("files with such tests", len(files), note=", ".join(files))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-v",
        "-rsfE",
        "--color=no",
        "-p",
        "no:cacheprovider",
        "-m",
        "gpu",
        "--continue-on-collection-errors",
        *files,
    ]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment_of(setting.device),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    ended_early = threading.Event()

    def end() -> None:
        ended_early.set()
        end_group(process)

    timer = threading.Timer(max(recorder.seconds_left - 4, 1), end)
    timer.start()
    counts: Counter[str] = Counter()
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
        if match := _RESULT.match(line.rstrip()):
            counts[match[2].lower()] += 1
            if match[2] in ("FAILED", "ERROR"):
                recorder.add("failed", match[1])
        elif line.startswith("SKIPPED ["):
            recorder.add("skipped", line.removeprefix("SKIPPED ").strip())
        elif line.startswith("E  ") and len(line) < 300:
            recorder.add("error", line[1:].strip())
    timer.cancel()
    code = process.wait()
    summary = ", ".join(f"{count} {result}" for result, count in sorted(counts.items())) or "none ran"
    note = "cut off: no time was left" if ended_early.is_set() else f"pytest's exit code {code}"
    recorder.add("results", summary, note=note)


def marked_files() -> list[str]:
    """Test files with a test marked `gpu`; importing all others would take longer than these tests."""
    paths = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(path.relative_to(ROOT)) for path in paths if "mark.gpu" in path.read_text()]
