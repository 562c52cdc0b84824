"""How long training stands still for a checkpoint of the full-size networks, and how long it is being written.

    python -m benchmarks.checkpoint

Training waits for the copy to memory only; the file is written, flushed and renamed beside it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from ialcms.config import Config
from ialcms.engine import Ranks
from ialcms.runs.checkpoint import Progress
from ialcms.runs.checkpoint_writer import CheckpointWriter
from ialcms.training.step import Experiment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    config = Config()
    with Ranks() as ranks:
        experiment = Experiment(config, ranks, pretrained=False)
        for learner in (experiment.separator, experiment.critic):
            assert learner is not None
            for parameter in learner.module.parameters():
                if parameter.requires_grad:
                    parameter.grad = parameter.detach().clone()
            learner.optimizer.step()  # so that there are moments to save
            learner.optimizer.zero_grad()
        with tempfile.TemporaryDirectory() as folder:
            writer = CheckpointWriter(Path(folder), config, "benchmark")
            began = time.perf_counter()
            writer.write(experiment.state_dict(), Progress(1), is_best=False)
            stood_s = time.perf_counter() - began
            writer.wait()
            whole_s = time.perf_counter() - began
            size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    print(f"checkpoint of {size / 1e6:.0f} MB ({ranks.device.type})")
    print(f"training stands still {stood_s:.2f} s, the file is complete after {whole_s:.2f} s: {stood_s / whole_s:.0%}")


if __name__ == "__main__":
    main()
