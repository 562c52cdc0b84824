"""Random numbers that are pure functions of a key."""

from __future__ import annotations

import hashlib

import numpy as np


def uniforms(count: int, *key: object) -> np.ndarray:
    """`count` float64 numbers in [0, 1): a pure function of the key (numbers, texts), on every machine.

    Philox, a counter-based generator; of NumPy only its raw stream is used, which is guaranteed not to change between
    versions.
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    raw = np.random.Philox(key=int.from_bytes(digest, "little")).random_raw(count)
    return (raw >> np.uint64(11)) * 2.0**-53


def permutation(count: int, *key: object) -> np.ndarray:
    """Random order of range(count), a pure function of the key."""
    return np.argsort(uniforms(count, *key), kind="stable")
