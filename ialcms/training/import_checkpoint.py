"""`ialcms import`: a run's folder made of a file of weights, as of an authors' checkpoint.

The folder has what a run's folder needs: the configuration, a checkpoint that is also the best one, and `import.json`
with the account of every tensor. Optimizers and memory bank are new, and a critic that the file lacks is, too.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ialcms.config import Config, digest
from ialcms.engine import Learner
from ialcms.files import replacing, write_whole
from ialcms.models import Critic, Separator
from ialcms.models.build import build_networks, critic_optimizer, separator_optimizer
from ialcms.runs import checkpoint
from ialcms.runs.checkpoint import Progress
from ialcms.runs.run_folder import RunFolder, Start
from ialcms.runs.weights_file import Filled, fill_networks
from ialcms.training.memory_bank import empty_state

ACCOUNT = "import.json"


@dataclass(frozen=True)
class Imported:
    """The run that was made, to be described."""

    folder: Path
    config: Config
    filled: Filled
    step: int
    has_critic: bool  # the networks of the configuration have one

    def __str__(self) -> str:
        account, config = self.filled.account, self.config
        num_ours = len(account.matched) + len(account.missing)
        lines = [
            f"{self.folder}: a run's folder made of {self.filled.source}, configuration '{config.name}'",
            f"{len(account.matched)} of {num_ours} tensors matched, by {self.filled.names}",
            *self.filled.notes,
        ]
        if account.missing:
            lines.append(f"not in the file: the critic ({len(account.missing)} tensors), which is new")
        if account.unexpected:
            shown = ", ".join(account.unexpected[:5])
            lines.append(f"left out: {len(account.unexpected)} tensors that these networks do not have, like {shown}")
        new = "optimizers and memory bank are new" if self.has_critic else "the optimizer is new"
        lines.append(f"step {self.step} of {config.train.steps}; {new}")
        if self.step >= config.train.steps:
            lines.append(f"to train on, raise train.steps above {self.step}, or import again with --step 0")
        return "\n".join([*lines, f"every tensor is listed in {self.folder / ACCOUNT}"])


def import_checkpoint(source: Path, config: Config, out: Path, step: int | None = None) -> Imported:
    """Make the run's folder `out` of the weights in the file `source`, whole or not at all.

    step: at which training resumes; by default the one that the file says, or 0. ValueError where `out` is there
    already, and where the file cannot be read or does not fit the configuration.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"{out} is there already; give another folder with --out")
    if source.is_dir():
        raise ValueError(f"{source} is a folder; give a file of weights (a run's folder needs no import)")
    separator, critic = build_networks(config, pretrained=False)
    filled = fill_networks(source, separator, critic)
    _check_finite(source, separator, critic)
    step = step if step is not None else filled.step or 0
    try:
        with replacing(out) as temporary:
            run = RunFolder(temporary)
            run.create(config, world_size=1, start=Start(weights=source))
            progress = Progress(step=step, best_step=step)
            saved = checkpoint.save(
                run.checkpoints,
                config,
                checkpoint.NO_MANIFEST,
                state=_state(config, separator, critic),
                progress=progress,
            )
            checkpoint.keep_as_best(saved)
            write_whole(temporary / ACCOUNT, json.dumps(_account(source, config, filled, step=step), indent=1) + "\n")
    except OSError as error:
        raise ValueError(f"cannot write {out}: {error.strerror or error}; give another folder with --out") from error
    return Imported(out, config, filled, step=step, has_critic=critic is not None)


def _state(config: Config, separator: Separator, critic: Critic | None) -> dict[str, Any]:
    """As `Experiment.state_dict` before the first step."""
    state: dict[str, Any] = {
        "separator": Learner(separator, separator_optimizer(separator, config)).state_dict(),
        "skipped_steps": 0,
    }
    if critic is not None:
        spectrogram = (config.audio.log_bins, config.audio.num_frames)
        state["critic"] = Learner(critic, critic_optimizer(critic, config)).state_dict()
        state["bank"] = empty_state(config.loss.bank_size, spectrogram)
    return state


def _check_finite(source: Path, *networks: nn.Module | None) -> None:
    for network in networks:
        for name, value in network.state_dict().items() if network is not None else ():
            if not torch.isfinite(value).all():
                raise ValueError(f"{source} has values that are not numbers ({name}); use an earlier checkpoint")


def _account(source: Path, config: Config, filled: Filled, step: int) -> dict[str, Any]:
    """What is written beside the checkpoint.

    source: the imported file. filled: what it gave. step: that it counts as.
    """
    with open(source, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "source": source.name,
        "sha256": sha256,
        "config": config.name,
        "config_digest": digest(config),
        "names": filled.names,
        "notes": list(filled.notes),
        "step": step,
        "step_of_file": filled.step,
        **asdict(filled.account),
    }
