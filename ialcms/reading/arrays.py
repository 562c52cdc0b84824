"""Arrays in NumPy's .npy form."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from ialcms.reading.words import Unreadable, one_line

_LONGEST_HEADER = 10_000  # bytes: as NumPy itself trusts


def parse_array(raw: bytes | memoryview) -> np.ndarray:
    """The array in the bytes of a .npy file, not to be written to. Raises Unreadable, also for Python objects."""
    return _parse(io.BytesIO(raw), len(raw))


def read_array(path: Path) -> np.ndarray:
    """The array in a .npy file. Raises Unreadable, and OSError where the file system refuses."""
    with open(path, "rb") as file:
        return _parse(file, path.stat().st_size)


def _parse(file: io.BufferedReader | io.BytesIO, size: int) -> np.ndarray:
    start = file.read(len(npy.MAGIC_PREFIX))
    if not start:
        raise Unreadable("it is empty")
    if start != npy.MAGIC_PREFIX:
        raise Unreadable("it is no .npy file, or pickled objects, which are not read")
    file.seek(0)
    try:
        major, _ = npy.read_magic(file)
        read_header = npy.read_array_header_1_0 if major == 1 else npy.read_array_header_2_0
        shape, in_fortran_order, dtype = read_header(file, max_header_size=_LONGEST_HEADER)
    except OSError:
        raise
    except Exception as error:  # headers are Python literals: Syntax, Token, Type, Recursion, Memory, Overflow errors
        raise Unreadable(one_line(error)) from error
    if dtype.hasobject:
        raise Unreadable("it holds pickled objects, which are not read")
    left = size - file.tell()
    if not all(type(length) is int and 0 <= length < 1 << 63 for length in shape):
        raise Unreadable("its header has an impossible shape")
    if dtype.itemsize == 0 or math.prod(shape) * dtype.itemsize > left:
        raise Unreadable(f"its header claims {dtype} {_shape(shape)}, but only {left} bytes follow")
    values = np.frombuffer(file.read(math.prod(shape) * dtype.itemsize), dtype=dtype)
    return values.reshape(shape, order="F" if in_fortran_order else "C")


def _shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape[:4]))}{', ...' if len(shape) > 4 else ''})"
