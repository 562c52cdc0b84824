"""Fine-tuning of the detector on boxes in the CSV form of Open Images.

Which pictures make up a step is a function of seed and step, and the state is written during training: a run
that was killed continues where it last wrote.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ialcms.files import write_whole
from ialcms.progress import Progress
from ialcms.reading.tensors import read_tensors
from shards.detect import read_picture
from shards.detector import Detector, build_detector, load_init, save_detector
from shards.open_images import Example

_LARGEST_GRADIENT = 5.0  # norm


@dataclass(frozen=True)
class TrainingOptions:
    """How a detector is trained."""

    backbone: str = "resnet50"
    init: Path | None = None  # weights to start from, as far as they fit
    steps: int = 20_000
    batch: int = 8  # pictures
    learning_rate: float = 1e-4
    warmup_steps: int = 100
    flip: bool = True  # every other picture mirrored
    seed: int = 0
    save_every: int = 500  # steps


@dataclass(frozen=True)
class Trained:
    """A trained detector, and what it could not learn from."""

    detector: Detector
    unreadable: frozenset[Path]  # pictures that could not be decoded


def train_detector(
    examples: Sequence[Example],
    classes: Sequence[str],
    out: Path,
    options: TrainingOptions | None = None,
    device: str = "cpu",
    loader_workers: int = 0,
) -> Trained:
    """Train a detector and write it to `out`; its state lies beside it, in `<out>.state`, until it is finished.

    classes: by the labels of the examples. device, loader_workers: where the network runs, and how many processes read
    pictures. A picture that cannot be decoded is replaced by the next readable one. Raises ValueError for options out
    of range, when no picture is readable and when the loss is no longer finite.
    """
    options = options or TrainingOptions()
    _check_options(options)
    torch.manual_seed(options.seed)
    detector = build_detector(options.backbone, classes)
    if options.init is not None:
        load_init(detector, options.init)
    model = detector.model.to(device).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], options.learning_rate)
    state_path = out.with_name(f"{out.name}.state")
    settings = json.dumps({**dataclasses.asdict(options), "classes": list(classes)}, default=str)
    first = _resume(state_path, settings, model, optimizer=optimizer)
    steps = _Steps(examples, options)
    steps.readable(range(len(examples)))  # the error of a loader worker would come with its traceback
    unreadable: set[Path] = set()
    loader = DataLoader(
        steps,
        batch_size=None,
        sampler=range(first, options.steps),
        num_workers=loader_workers,
    )
    with Progress(options.steps, "train", "step") as progress:
        progress.skip(first)
        for step, batch in enumerate(loader, start=first):
            unreadable |= batch.unreadable
            for group in optimizer.param_groups:
                group["lr"] = options.learning_rate * _rate_factor(step, options)
            # the proposals that a step samples depend on this generator alone
            torch.manual_seed(options.seed + step + 1)
            if not _learn(model, optimizer, batch, device):
                raise ValueError(f"the loss of step {step} is not finite; start anew with a lower --learning-rate")
            progress.advance()
            if (step + 1) % options.save_every == 0:
                _save_state(state_path, settings, step + 1, model=model, optimizer=optimizer)
    model.eval()
    save_detector(detector, out)
    state_path.unlink(missing_ok=True)
    return Trained(detector, frozenset(unreadable))


def _check_options(options: TrainingOptions) -> None:
    if min(options.steps, options.batch, options.save_every) < 1 or not options.learning_rate > 0:
        raise ValueError("--steps, --batch, --save-every and --learning-rate must be positive")
    if options.backbone != "small" and options.init is None:
        raise ValueError(
            f"the backbone '{options.backbone}' learns from weights only: give a file of weights with --init, like "
            "torchvision's for COCO or ImageNet, or choose --backbone small"
        )


def _learn(model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: _Batch, device: str) -> bool:
    """Update a detector by a batch; False, and no update, where the loss is not finite.

    model: in training mode. optimizer: of the model. device: that the model is on.
    """
    pictures = [picture.to(device) for picture in batch.pictures]
    losses = model(pictures, [_moved(target, device) for target in batch.targets])
    loss = sum(losses.values())
    if not torch.isfinite(loss):
        return False
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), _LARGEST_GRADIENT)
    optimizer.step()
    return True


def _moved(target: dict[str, torch.Tensor], device: str) -> dict[str, torch.Tensor]:
    return {name: value.to(device) for name, value in target.items()}


@dataclass(frozen=True)
class _Batch:
    pictures: list[torch.Tensor]
    targets: list[dict[str, torch.Tensor]]
    unreadable: frozenset[Path]  # pictures that were replaced


@dataclass(frozen=True)
class _Readable:
    example: Example
    picture: torch.Tensor
    unreadable: frozenset[Path]  # pictures before it


class _Steps(Dataset):
    """Step -> its pictures and targets."""

    def __init__(self, examples: Sequence[Example], options: TrainingOptions) -> None:
        self._examples, self._options = examples, options

    def __getitem__(self, step: int) -> _Batch:
        draws = range(step * self._options.batch, (step + 1) * self._options.batch)
        found = [self._find(draw) for draw in draws]
        pairs = [self._augmented(draw, readable) for draw, readable in zip(draws, found)]
        unreadable = frozenset[Path]().union(*(readable.unreadable for readable in found))
        pictures = [picture for picture, _ in pairs]
        targets = [target for _, target in pairs]
        return _Batch(pictures, targets, unreadable)

    def _find(self, draw: int) -> _Readable:
        epoch, index = divmod(draw, len(self._examples))
        order = np.random.default_rng([self._options.seed, epoch]).permutation(len(self._examples))
        return self.readable(np.roll(order, -index))

    def _augmented(self, draw: int, readable: _Readable) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        epoch, index = divmod(draw, len(self._examples))
        example, picture = readable.example, readable.picture
        height, width = picture.shape[1:]
        boxes = torch.from_numpy(example.boxes * np.array([width, height, width, height], np.float32))
        if self._options.flip and np.random.default_rng([self._options.seed, epoch, index]).random() < 0.5:
            picture = picture.flip(2)
            boxes = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
        return picture, {"boxes": boxes, "labels": torch.from_numpy(example.labels)}

    def readable(self, order: Iterable[int]) -> _Readable:
        """The first of the examples whose picture can be decoded; ValueError when there is none."""
        unreadable: set[Path] = set()
        for index in order:
            example = self._examples[index]
            try:
                return _Readable(example, read_picture(example.path), frozenset(unreadable))
            except (OSError, ValueError):
                unreadable.add(example.path)
        raise ValueError(f"none of the {len(self._examples)} pictures can be decoded, like {min(unreadable)}")


def _rate_factor(step: int, options: TrainingOptions) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    return min(1.0, (step + 1) / options.warmup_steps) * 0.5 * (1 + math.cos(math.pi * step / options.steps))


def _save_state(path: Path, settings: str, step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """settings: what must be the same when the training resumes. step: the next one."""
    buffer = io.BytesIO()
    torch.save(
        {"settings": settings, "step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, buffer
    )
    write_whole(path, buffer.getvalue())


def _resume(path: Path, settings: str, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Take over an unfinished run's state; the step to resume at.

    path: of the state. settings: as for `_save_state`. Raises ValueError for a state that is damaged or of others.
    """
    if not path.is_file():
        return 0
    try:
        state: dict[str, Any] = read_tensors(path)
        of_other_options = state["settings"] != settings
        if not of_other_options:
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
        step = int(state["step"])
    except Exception as error:  # a network or an optimizer raises many kinds of errors for a foreign state
        raise ValueError(f"{path}, of an unfinished training, is damaged; remove it to train from the start") from error
    if of_other_options:
        raise ValueError(f"{path} is of an unfinished training with other options; remove it, or give these options")
    return step
