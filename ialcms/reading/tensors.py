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

from ialcms.reading.harmless import HARMLESS, stand_ins
from ialcms.reading.words import Unreadable, one_line, shown

_MOST_EXPANDED = 4 << 30  # bytes
_CONVERSION = "that class is installed: torch.save(torch.load(FILE, weights_only=False)['state_dict'], 'weights.pt')"
_FOREIGN_CLASS = re.compile(
    r"(?:unsupported|Unsupported) (?:global: )?GLOBAL (\S+)|create new object.*got <class '(\S+)'>"
)


def read_tensors(path: Path, foreign: bool = False, check_sums: bool = True) -> Any:
    """The content of a file of torch.save, on the CPU.

    foreign: also a file of another program, which may hold its options as objects of harmless classes (see
    harmless.py). check_sums: also verify the checksums of the tensors, which torch writes but does not verify. Raises
    Unreadable, and OSError where the file system refuses.
    """
    with open(path, "rb") as file:
        is_zip = file.read(2) == b"PK"
    if is_zip:
        _check_archive(path, check_sums)
    try:
        allowed = _stand_ins(path, is_zip) if foreign else []
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols that fail, or not, just after
            content = torch.load(path, map_location="cpu", weights_only=True)
        _check_sizes(content)
    except Unreadable:
        raise
    except Exception as error:  # torch raises pickle, zip, Runtime, Type, Key and EOF errors alike for a foreign file
        raise Unreadable(_reason(error)) from error
    return content


def _stand_ins(path: Path, is_zip: bool) -> list[Any]:
    """What stands for classes of other programs while a file is read."""
    if not is_zip:  # torch lists the classes of zip files alone
        return HARMLESS
    with torch.serialization.safe_globals(HARMLESS):
        return [*HARMLESS, *stand_ins(torch.serialization.get_unsafe_globals_in_checkpoint(path))]


def iter_tensors(content: Any) -> Iterator[Tensor]:
    """All tensors in nested dictionaries, lists and tuples; a container that occurs several times is read once."""
    waiting, seen = [content], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            waiting += value.values() if isinstance(value, dict) else value


def _check_archive(path: Path, check_sums: bool) -> None:
    """Raises Unreadable for an archive that claims to hold more bytes than it has: torch's are not compressed."""
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


def is_plain(value: Any) -> bool:
    """Whether a value is a dense tensor with its content on the CPU: not sparse, quantized, nested or on "meta"."""
    if not isinstance(value, Tensor) or value.device.type != "cpu" or value.layout != torch.strided:
        return False
    return not (value.is_quantized or value.is_nested)


def _check_sizes(content: Any) -> None:
    """Raises Unreadable for tensors that strides of zero make larger than any network from a few bytes."""
    left = _MOST_EXPANDED
    for tensor in iter_tensors(content):
        size = tensor.numel() * tensor.element_size()
        if is_plain(tensor) and size > tensor.untyped_storage().nbytes():
            left -= size
            if left < 0:
                raise Unreadable(f"it holds a tensor of shape {tuple(tensor.shape)} with fewer values than that")


def _reason(error: Exception) -> str:
    found = _FOREIGN_CLASS.search(str(error))
    if found:
        name = found[1] or found[2]
        return f"it holds '{shown(name)[1:-1]}', which could run code; save the state_dict alone, where {_CONVERSION}"
    text = str(error).partition("WeightsUnpickler error:")[2] or str(error)  # what comes before it is advice
    return one_line(re.split(r"\n|\. ", text.strip())[0] or type(error).__name__)
