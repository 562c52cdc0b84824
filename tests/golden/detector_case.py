"""Weights and pictures of the detector's golden case: functions of names and seeds, and checkpoints made of them."""

from __future__ import annotations

import csv
import pickle
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.golden.deterministic import HERE

CASE = HERE / "detector.npz"

# Gains with which activations keep a sane size through a hundred layers, proposals spread over the picture, and a few
# per cent of them score above the threshold for some class.
_GAINS = {
    "RCNN_base.0.weight": 1 / 64,  # pictures range over +-128
    "RCNN_rpn.RPN_cls_score.weight": 0.2,
    "RCNN_rpn.RPN_bbox_pred.weight": 0.06,
    "RCNN_cls_score.weight": 1.2,
    "RCNN_bbox_pred.weight": 0.45,
}


def detector_shapes() -> dict[str, tuple[int, ...]]:
    """Name -> shape of the parameters and buffers of the published detector."""
    with open(HERE / "detector_keys.tsv", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        return {row["name"]: tuple(int(n) for n in row["shape"].split(",") if n) for row in rows}


def detector_weights() -> dict[str, torch.Tensor]:
    """{published name: tensor} of the golden case; the last layers' offsets are the case's own."""
    with np.load(CASE, allow_pickle=False) as case:
        seed = int(case["seed"])
        offsets = {name.removeprefix("bias/"): case[name] for name in case.files if name.startswith("bias/")}
    arrays = {name: _array(name, shape, seed) for name, shape in detector_shapes().items()}
    return {name: torch.from_numpy(array) for name, array in {**arrays, **offsets}.items()}


def _array(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    generator = np.random.RandomState(zlib.crc32(f"{seed}:{name}".encode()))
    normal = generator.standard_normal(int(np.prod(shape, dtype=np.int64))).astype(np.float32).reshape(shape)
    kind = name.rpartition(".")[2]
    if kind == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if kind == "running_mean":
        return 0.1 * normal
    if kind == "running_var":
        return np.exp(0.1 * normal)
    if len(shape) >= 2:  # of a convolution or a linear layer
        return normal * np.float32(_GAINS.get(name, 1.0) * np.sqrt(2.0 / np.prod(shape[1:])))
    if kind == "weight":  # gains; a block's last is small, or 33 blocks would add up
        return (0.3 if ".bn3." in name else 1.0) * (1 + 0.1 * normal)
    if ".bn1." in name or ".bn2." in name:  # below zero, so that the ReLU behind it selects
        return 0.1 * normal - np.float32(0.3)
    return 0.1 * normal


def picture(seed: int, height: int, width: int) -> np.ndarray:
    """uint8 RGB (height, width, 3): smooth coloured blobs with stripes on a slope."""
    generator = np.random.RandomState(seed)
    y, x = (np.mgrid[0:height, 0:width] + 0.5) / np.array([height, width])[:, None, None]
    slope_x, slope_y = generator.standard_normal(3), generator.standard_normal(3)
    pixels = 110 + 60 * slope_x * (x[..., None] - 0.5) + 60 * slope_y * (y[..., None] - 0.5)
    for _ in range(24):
        centre_y, centre_x, radius_y, radius_x = generator.rand(4)
        radius_y, radius_x = 0.02 + 0.13 * radius_y, 0.02 + 0.13 * radius_x
        blob = np.exp(-0.5 * (((y - centre_y) / radius_y) ** 2 + ((x - centre_x) / radius_x) ** 2))
        angle, frequency, phase = generator.rand(3) * [np.pi, 40, 2 * np.pi] + [0, 10, 0]
        along = x * np.cos(angle) + y * np.sin(angle)
        stripes = 1 + 0.5 * np.sin(2 * np.pi * frequency * along + phase)
        pixels = pixels + 90 * generator.standard_normal(3) * (blob * stripes)[..., None]
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def checkpoint(weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What the published training saves."""
    momentum = {"momentum_buffer": torch.zeros(3)}
    group = {"lr": 1e-3, "momentum": 0.9, "dampening": 0, "weight_decay": 5e-4, "nesterov": False, "params": [1]}
    return {
        "session": 1,
        "epoch": 20,
        "model": weights,
        "optimizer": {"state": {1: momentum}, "param_groups": [group]},
        "pooling_mode": "align",
        "class_agnostic": False,
    }


def save_as_pytorch_0_3(values: dict[str, Any], path: Path) -> None:
    """Write a file as PyTorch before 0.4.1 did on a machine with a GPU: one stream of pickles and raw storages, no
    counters in BatchNorm, float32 tensors on "cuda:0".
    """
    weights = {name: value for name, value in values["model"].items() if not name.endswith("num_batches_tracked")}
    with open(path, "wb") as file:
        for head in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}):
            pickle.dump(head, file, protocol=2)
        pickler = _OldPickler(file, protocol=2)
        pickler.dump({**values, "model": weights})
        pickle.dump([str(number) for number in range(len(pickler.storages))], file, protocol=2)
        for array in pickler.storages:
            file.write(np.int64(array.size).tobytes())
            file.write(array.tobytes())


class _Storage:
    def __init__(self, number: int, size: int) -> None:
        self.number, self.size = number, size


class _OldPickler(pickle.Pickler):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.storages: list[np.ndarray] = []

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, _Storage):
            return None
        return ("storage", torch.cuda.FloatStorage, str(value.number), "cuda:0", value.size, None)

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return NotImplemented
        array = value.numpy().astype(np.float32, copy=False).ravel()
        self.storages.append(array)
        storage = _Storage(len(self.storages) - 1, array.size)
        return torch._utils._rebuild_tensor, (storage, 0, tuple(value.shape), value.stride())
