"""A run's folder: resolved configuration, versions, git revision, log, metrics, TensorBoard, checkpoints."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from ialcms.config import Config, load_config, to_dict
from ialcms.files import replacing, write_whole
from ialcms.runs import checkpoint

_PACKAGES = ("torch", "torchaudio", "torchvision", "webdataset", "numpy", "mir_eval", "deepspeed", "ialcms")


class RunFolder:
    """Names of what lies where in a run's folder."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.environment = self.path / "environment.json"
        self.log = self.path / "train.log"
        self.metrics = self.path / "metrics.jsonl"
        self.tensorboard = self.path / "tensorboard"
        self.checkpoints = self.path / "checkpoints"
        self.stop_file = self.path / "stop"  # its appearance asks the run to save and end
        self.finished = self.path / "finished"  # there when the run has done its last step
        self.evaluation = self.path / "evaluation"
        self.profile = self.path / "profile"  # traces of --profile

    def create(self, config: Config, world_size: int) -> None:
        """Make the folder and write the resolved configuration; every (re)start adds a line to the environment.

        ValueError when the disk refuses, as when it is full.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with replacing(self.config) as temporary:
                temporary.write_text(yaml.safe_dump(to_dict(config), sort_keys=False))
            with open(self.environment, "a") as file:
                file.write(json.dumps(_environment(world_size)) + "\n")
        except OSError as error:
            raise ValueError(
                f"the run's folder {self.path} cannot be written ({error.strerror}); make room there or choose another "
                "--folder"
            ) from error

    def files(self) -> list[Path]:
        """What a run, or a checkpoint's folder given for one, is read from."""
        own = [self.config, self.environment, self.log, self.metrics, self.stop_file, self.finished]
        own += [self.path / name for name in checkpoint.FILE_NAMES]
        saved = [path for path in self.checkpoints.rglob("*") if path.is_file()]
        return [path for path in own if path.is_file()] + saved

    def was_started_by(self, launch: str | None) -> bool:
        """Whether the last start in this folder was one of this launch, by the id that torchrun gives all of its."""
        if launch in (None, "none"):
            return False
        with contextlib.suppress(OSError, ValueError, IndexError):  # none yet, or a kill cut the line short
            return bool(json.loads(self.environment.read_text().splitlines()[-1]).get("launch") == launch)
        return False

    def start(self) -> None:
        """Forget what an earlier run in this folder ended with."""
        self.stop_file.unlink(missing_ok=True)
        self.finished.unlink(missing_ok=True)

    def finish(self, step: int) -> None:
        write_whole(self.finished, f"{step}\n")

    def best_checkpoint(self) -> Path:
        """The checkpoint of the best validation; ValueError where there is none."""
        found = checkpoint.best(self.checkpoints)
        if found is None:
            raise ValueError(f"there is no best checkpoint in {self.checkpoints}; train until a validation first")
        return found

    def evaluation_of(self, config: Config) -> Path:
        return self.evaluation / f"{config.eval.split}-{config.eval.num_mix}mix"

    def read_config(self, overrides: Sequence[str] = ()) -> Config:
        """The configuration that the run was started with last, `overrides` applied."""
        if not self.config.is_file():
            raise ValueError(f"{self.path} is no run's folder: it has no {self.config.name}; give the folder of a run")
        return load_config(self.config, overrides)


def launch_id() -> str | None:
    return os.environ.get("TORCHELASTIC_RUN_ID")


def _environment(world_size: int) -> dict[str, Any]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "launch": launch_id(),
        "world_size": world_size,
        "host": platform.node(),
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
        "git": _git_revision(),
        "versions": versions,
    }


def _git_revision() -> str:
    """Revision of the program's own checkout, '-dirty' where files differ; 'unknown' outside a checkout."""
    here = Path(__file__).parent
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return result.stdout.strip() if result.returncode == 0 else "unknown"
