"""Stand-ins for classes that training programs leave in their checkpoints beside the weights.

Lightning writes hyper-parameters and the states of its callbacks, torchvision's references write an argparse.Namespace,
many write NumPy scalars or dictionaries with attributes. None of it is needed here, so none of the real classes is
imported: one of the classes below stands for it, and keeps or drops plain values. Other names are refused.
"""

from __future__ import annotations

import pathlib
import struct
from argparse import Namespace
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

# NumPy's names of types that hold a real number -> those of the struct module.
_NUMBERS = {"b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q",
            "f2": "e", "f4": "f", "f8": "d"}  # fmt: skip


class Dropped:
    """Takes any arguments and keeps nothing."""

    def __new__(cls, *_: object, **__: object) -> Dropped:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class PlainDict:
    """Makes an OrderedDict instead of a subclass of dict: of those, torch's reader fills only this one."""

    def __new__(cls, *_: object) -> OrderedDict:  # type: ignore[misc]
        return OrderedDict()


class DType:
    """numpy.dtype of a number."""

    def __init__(self, name: object = "", *_: object) -> None:
        self.code = _NUMBERS.get(name, "") if isinstance(name, str) else ""
        self.order = "<"

    def __setstate__(self, state: tuple) -> None:
        if len(state) > 1 and state[1] == ">":
            self.order = ">"


def scalar(dtype: object, raw: object = b"") -> int | float | bool | None:
    """A number of NumPy, as one of Python's; None for what is no real number."""
    if not isinstance(dtype, DType) or not dtype.code or not isinstance(raw, bytes):
        return None
    form = dtype.order + dtype.code
    number: int | float | bool | None = struct.unpack(form, raw)[0] if len(raw) == struct.calcsize(form) else None
    return number


def _path(*parts: object) -> str:
    return str(pathlib.PurePosixPath(*(part for part in parts if isinstance(part, str))))


_LIGHTNING_CALLBACKS = tuple(
    f"{package}.callbacks.{name}"
    for package in ("pytorch_lightning", "lightning.pytorch")
    for name in (
        "early_stopping.EarlyStopping",
        "gpu_stats_monitor.GPUStatsMonitor",
        "lr_monitor.LearningRateMonitor",
        "model_checkpoint.ModelCheckpoint",
        "progress.ProgressBar",
        "progress.tqdm_progress.TQDMProgressBar",
        "stochastic_weight_avg.StochasticWeightAveraging",
        "timer.Timer",
    )
)
_DROPPED = (
    "numpy.ndarray",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.random._pickle.__randomstate_ctor",
    "datetime.datetime",
    "datetime.date",
    "datetime.timedelta",
    "functools.partial",
    "typing.Any",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    *(f"omegaconf.nodes.{kind}Node" for kind in ("Any", "Boolean", "Float", "Integer", "Path", "String")),
    *_LIGHTNING_CALLBACKS,
)
_DICTS = (
    "collections.defaultdict",
    "easydict.EasyDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
)
# Dictionaries with attributes, of which many programs have a copy of their own: known by the class's name alone.
_DICT_CLASSES = ("AttrDict", "AttributeDict", "CfgNode", "ConfigDict", "DotDict", "EasyDict", "Munch", "dotdict")
_PATHS = tuple(
    f"{module}.{name}"
    for module in ("pathlib", "pathlib._local")
    for name in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath", "Path")
)

_BUILTINS = (bool, bytes, dict, float, frozenset, int, list, str, tuple)

# For torch.serialization.safe_globals: stand-in, name of the class that it stands for.
HARMLESS: list[Any] = [
    Namespace,
    SimpleNamespace,
    (DType, "numpy.dtype"),
    (scalar, "numpy.core.multiarray.scalar"),
    (scalar, "numpy._core.multiarray.scalar"),
]
HARMLESS += [(kind, f"builtins.{kind.__name__}") for kind in _BUILTINS]
HARMLESS += [(PlainDict, name) for name in _DICTS]
HARMLESS += [(Dropped, name) for name in _DROPPED]
HARMLESS += [(_path, name) for name in _PATHS]


def stand_ins(names: list[str]) -> list[Any]:
    """More of them for the classes `module.Name` that a file asks for: for dictionaries of any module."""
    return [(PlainDict, name) for name in names if name.rpartition(".")[2] in _DICT_CLASSES]
