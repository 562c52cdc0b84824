"""A run's folder: resolved configuration, versions, git revision, log, metrics, TensorBoard, checkpoints."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from ialcms.config import Config, load_config, to_dict
from ialcms.files import replacing, write_whole
from ialcms.launched import is_restart
from ialcms.published import import_remedy
from ialcms.reading import Unreadable
from ialcms.reading.text import parse_json
from ialcms.runs import checkpoint

_PACKAGES = ("torch", "torchaudio", "torchvision", "webdataset", "numpy", "mir_eval", "deepspeed", "ialcms")


@dataclass(frozen=True)
class Start:
    """A start of a run, as its folder records it."""

    marks: Sequence[Mapping[str, str | int]] = ()  # of the launch, by all ranks
    weights: Path | None = None  # that were given to begin with


class RunFolder:
    """Names of what lies where in a run's folder."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.environment = self.path / "environment.json"
        self.log = self.path / "train.log"
        self.metrics = self.path / "metrics.jsonl"
        # TensorBoard calls a run by the folder of its events; earlier versions had a folder of that name for them.
        earlier = self.path / "tensorboard"
        self.tensorboard = earlier if earlier.is_dir() else self.path
        self.checkpoints = self.path / "checkpoints"
        self.stop_file = self.path / "stop"  # its appearance asks the run to save and end
        self.finished = self.path / "finished"  # there when the run has done its last step
        self.evaluation = self.path / "evaluation"
        self.profile = self.path / "profile"  # traces of --profile

    def create(self, config: Config, world_size: int, start: Start | None = None) -> None:
        """Make the folder and write the resolved configuration; every (re)start adds a line to the environment.

        ValueError when the disk refuses, as when it is full.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with replacing(self.config) as temporary:
                temporary.write_text(yaml.safe_dump(to_dict(config), sort_keys=False))
            with open(self.environment, "a") as file:
                file.write(json.dumps(_environment(world_size, start or Start())) + "\n")
        except OSError as error:
            raise ValueError(
                f"the run's folder {self.path} cannot be written ({error.strerror}); make room there or choose another "
                "--folder"
            ) from error

    @property
    def curves(self) -> Path:
        """The folder to give TensorBoard: the one with this run and its neighbours, unless that has much else."""
        crowded = {Path.cwd(), Path.home(), Path(tempfile.gettempdir()), Path("/")}
        return self.path if self.path.absolute().parent in crowded else self.path.parent

    def files(self) -> list[Path]:
        """What a run, or a checkpoint's folder given for one, is read from."""
        named = [self.config, self.environment, self.log, self.metrics, self.stop_file, self.finished]
        named += [self.path / name for name in checkpoint.FILE_NAMES]
        saved = [path for path in self.checkpoints.rglob("*") if path.is_file()]
        return [path for path in named if path.is_file()] + saved

    def was_started_by(self, marks: Sequence[Mapping[str, str | int]]) -> bool:
        """Whether the last start in this folder was one of this launch; marks: `launch_mark` of all ranks."""
        starts = self._starts()
        before = starts[-1].get("launch") if starts else None
        return isinstance(before, list) and is_restart(before, marks)

    def was_begun_with(self, weights: Path) -> bool:
        """Whether an earlier start had these weights in --init-from (or was by a version that did not record them)."""
        starts = self._starts()
        return all("init_from" not in start for start in starts) or any(
            start.get("init_from") == os.path.abspath(weights) for start in starts
        )

    def _starts(self) -> list[dict[str, Any]]:
        """The lines of the environment; one that a kill cut short is left out."""
        starts = []
        with contextlib.suppress(OSError):
            for line in self.environment.read_text(errors="replace").splitlines():
                with contextlib.suppress(Unreadable):
                    starts.append(parse_json(line))
        return [start for start in starts if isinstance(start, dict)]

    def start(self) -> None:
        """Forget what an earlier run in this folder ended with."""
        self.stop_file.unlink(missing_ok=True)
        self.finished.unlink(missing_ok=True)

    def finish(self, step: int) -> None:
        """Note that the run has ended, after `step` steps."""
        write_whole(self.finished, f"{step}\n")

    def evaluation_of(self, config: Config) -> Path:
        """Where the results of an evaluation with this configuration lie."""
        return self.evaluation / f"{config.eval.split}-{config.eval.num_sources}mix"

    def read_config(self, overrides: Sequence[str] = ()) -> Config:
        """The configuration that the run was started with last, `overrides` applied.

        Shards at a relative path that is not here are looked for from where the run was started.
        """
        if self.path.is_file():
            raise ValueError(import_remedy(self.path))
        if not self.config.is_file():
            raise ValueError(f"{self.path} is no run's folder: it has no {self.config.name}; give the folder of a run")
        config = load_config(self.config, overrides)
        if any(override.startswith("data.shards=") for override in overrides) or os.path.exists(config.data.shards):
            return config
        starts = self._starts()
        there = os.path.join(str(starts[-1].get("folder", "")) if starts else "", config.data.shards)
        if not config.data.shards or not os.path.exists(there):
            return config
        return dataclasses.replace(config, data=dataclasses.replace(config.data, shards=there))


def _environment(world_size: int, start: Start) -> dict[str, Any]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "launch": list(start.marks),
        "init_from": None if start.weights is None else os.path.abspath(start.weights),
        "world_size": world_size,
        "host": platform.node(),
        "folder": os.getcwd(),
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
        "git": _git_revision(),
        "versions": versions,
    }


def _git_revision() -> str:
    """Revision of the program's own checkout, '-dirty' where files differ; 'unknown' outside a checkout."""
    here = Path(__file__).resolve()
    try:
        # an environment in somebody's checkout, with us installed in it, has nothing to do with that checkout
        for command in (
            ["git", "ls-files", "--error-unmatch", here.name],
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        ):
            result = subprocess.run(command, cwd=here.parent, capture_output=True, text=True, timeout=10)
            if result.returncode:
                return "unknown"
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return result.stdout.strip()
