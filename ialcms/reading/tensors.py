"""Files of torch.save. They are pickles: only the classes named here and those that torch itself lists are made."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ialcms.reading.harmless import HARMLESS
from ialcms.reading.words import Unreadable, one_line

_FOREIGN_CLASS = re.compile(
    r"(?:unsupported|Unsupported) (?:global: )?GLOBAL (\S+)|create new object.*got <class '(\S+)'>"
)


def read_tensors(path: Path, foreign: bool = False, check_sums: bool = True) -> Any:
    """The content of a file of torch.save, on the CPU.

    foreign: also a file of another program, whose options may be in it as objects of harmless classes (see
    harmless.py). check_sums: of the tensors, which torch writes but does not look at. Raises Unreadable, and OSError
    where the file system refuses.
    """
    with open(path, "rb") as file:
        is_zip = file.read(2) == b"PK"
    if is_zip:
        _check_archive(path, check_sums)
    try:
        with torch.serialization.safe_globals(HARMLESS if foreign else []), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols that fail, or not, just after
            content = torch.load(path, map_location="cpu", weights_only=True)
        for tensor in iter_tensors(content):
            _check_tensor(tensor)
    except Unreadable:
        raise
    except Exception as error:  # torch raises pickle, zip, Runtime, Type, Key and EOF errors alike for a foreign file
        raise Unreadable(_reason(error)) from error
    return content


def iter_tensors(content: Any) -> Iterator[Tensor]:
    """All tensors in nested dictionaries, lists and tuples, each container once, however they refer to each other."""
    waiting, seen = [content], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            waiting += value.values() if isinstance(value, dict) else value


def _check_archive(path: Path, check_sums: bool) -> None:
    """torch's archives are zip files without compression: what they hold is no more than what is there."""
    try:
        with zipfile.ZipFile(path) as archive:
            claimed = sum(entry.file_size for entry in archive.infolist())
            if claimed > path.stat().st_size:
                raise Unreadable(f"it claims to hold {claimed} bytes, but has {path.stat().st_size}")
            damaged = archive.testzip() if check_sums else None
    except Unreadable:
        raise
    except Exception as error:  # zipfile raises BadZipFile, EOF, OS, Value, struct and NotImplemented errors
        raise Unreadable(f"cut short, or no file of torch.save: {one_line(error)}") from error
    if damaged is not None:
        raise Unreadable(f"the checksum of {damaged} is wrong")


def _check_tensor(tensor: Tensor) -> None:
    """A few bytes can pose as a tensor of any size: by strides of zero, or with no storage at all."""
    if tensor.device.type != "cpu" or tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
        raise Unreadable("it holds a tensor that is sparse, quantized or without content")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise Unreadable(f"it holds a tensor of shape {tuple(tensor.shape)} with fewer values than that")


def _reason(error: Exception) -> str:
    found = _FOREIGN_CLASS.search(str(error))
    if found:
        name = found[1] or found[2]
        return (
            f"it holds '{name}', which could run code; save the state_dict alone: torch.save(model.state_dict(), FILE)"
        )
    text = str(error).partition("WeightsUnpickler error:")[2] or str(error)  # what comes before it is advice
    return one_line(re.split(r"\n|\. ", text.strip())[0] or type(error).__name__)
