"""Parts of the GPU benchmark that go wrong."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.gpu.setting import Recorder, Setting


def measure(setting: Setting, recorder: Recorder, how: str) -> None:
    recorder.add("before", 1)
    if how == "hangs":  # with a process of its own, both deaf to SIGTERM
        deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True)\n"
        child = subprocess.Popen([sys.executable, "-c", deaf + "time.sleep(600)"], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        (Path(setting.work) / "child").write_text(str(child.pid))
        time.sleep(600)
    if how == "crashes":
        os.abort()
    if how == "raises":
        raise RuntimeError("no such luck")
    recorder.add("after", float("nan"))
