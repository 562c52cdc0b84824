"""Random numbers that are pure functions of a key, never of what was drawn before, on every machine and process."""

from __future__ import annotations

import hashlib

import numpy as np


def uniforms(count: int, *key: object) -> np.ndarray:
    """`count` float64 numbers in [0, 1) for this key (numbers, texts); other keys give unrelated ones.

    Philox, a counter-based generator; of NumPy only its raw stream is used, which is guaranteed not to change between
    versions.
    """
    raw = _philox(key).random_raw(count)
    return (raw >> np.uint64(11)) * 2.0**-53


def permutation(count: int, *key: object) -> np.ndarray:
    """Random order of range(count) for this key."""
    return np.argsort(uniforms(count, *key), kind="stable")


def keyed_generator(*key: object) -> np.random.Generator:
    """A NumPy generator for this key, where its distributions are wanted and need not outlive a NumPy version."""
    return np.random.Generator(_philox(key))


def _philox(key: tuple[object, ...]) -> np.random.Philox:
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.random.Philox(key=int.from_bytes(digest, "little"))
