"""Counter-based random numbers: a generator is a pure function of its keys, never of what was drawn before."""

from __future__ import annotations

import hashlib

import numpy as np


def keyed_generator(*keys: int | str) -> np.random.Generator:
    """A NumPy generator for these keys; other keys give an unrelated one, on every machine and in every process."""
    digest = hashlib.sha256(repr(keys).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
