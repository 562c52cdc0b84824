"""Weights and inputs of the golden case: pure functions of names and seeds, by NumPy's frozen legacy generator."""

from __future__ import annotations

import csv
import zlib
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
SAMPLE_RATE = 11_025


def published_shapes(network: str) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the parameters and buffers of the published 'separator' or 'critic'."""
    with open(HERE / "keys.tsv", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        return {
            row["name"]: tuple(int(n) for n in row["shape"].split(",") if n)
            for row in rows
            if row["network"] == network
        }


def weights(network: str, seed: int) -> dict[str, np.ndarray]:
    """{published name: array}, scaled so that activations keep a sane size.

    The vectors of the spectral normalisation are ten power iterations away from random ones.
    """
    arrays = {name: _array(name, shape, seed) for name, shape in published_shapes(network).items()}
    for name in [n for n in arrays if n.endswith("weight_orig")]:
        stem = name.removesuffix("orig")
        matrix, u = arrays[name].reshape(len(arrays[name]), -1), arrays[stem + "u"]
        for _ in range(10):
            v = matrix.T @ u
            v /= np.linalg.norm(v)
            u = matrix @ v
            u /= np.linalg.norm(u)
        arrays[stem + "u"], arrays[stem + "v"] = u, v
    return arrays


def _array(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    generator = np.random.RandomState(zlib.crc32(f"{seed}:{name}".encode()))
    size = int(np.prod(shape, dtype=np.int64)) if shape else 1
    normal = generator.standard_normal(size).astype(np.float32).reshape(shape)
    kind = name.rpartition(".")[2]
    if kind == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if kind == "running_mean":
        return 0.1 * normal
    if kind == "running_var":
        return np.exp(0.1 * normal)
    if kind in ("weight_u", "weight_v"):
        return normal / np.linalg.norm(normal)
    if len(shape) >= 2:  # of a convolution or a linear layer
        return normal * np.float32(np.sqrt(2.0 / np.prod(shape[1:])))
    if kind == "weight" or name.endswith((".scale", "sigmoid.w")):  # gains
        return 1 + 0.1 * normal
    return 0.1 * normal  # offsets


def batch(seed: int, shape: tuple[int, int, int], num_samples: int = 65_535, side: int = 224) -> dict[str, np.ndarray]:
    """float32 mix (B, L), mixtures (B, M, L) of decaying harmonic tones, objects (B, M, O, 3, side, side) of noise."""
    generator = np.random.RandomState(seed)
    seconds = np.arange(num_samples, dtype=np.float64) / SAMPLE_RATE
    clips = np.zeros((*shape, num_samples))
    for index in np.ndindex(*shape):
        pitch = 110 * 2 ** (3 * generator.rand())
        for harmonic in range(1, 7):
            phase = 2 * np.pi * generator.rand()
            if harmonic * pitch < SAMPLE_RATE / 2:
                clips[index] += 0.5**harmonic * np.sin(2 * np.pi * harmonic * pitch * seconds + phase)
        clips[index] *= 0.3 * (0.6 + 0.4 * np.sin(2 * np.pi * (0.3 + generator.rand()) * seconds))
        clips[index] += 0.01 * generator.standard_normal(num_samples)
    mixtures = clips.mean(2)
    objects = generator.standard_normal((*shape, 3, side, side))
    return {
        "mix": mixtures.sum(1).astype(np.float32),
        "mixtures": mixtures.astype(np.float32),
        "objects": objects.astype(np.float32),
    }
