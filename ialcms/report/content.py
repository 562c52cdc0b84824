"""What a report shows: tables of figures, and examples to hear and see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Wave = NDArray[np.float32]


@dataclass(frozen=True)
class Interval:
    low: float
    high: float


@dataclass(frozen=True)
class Figure:
    """A number with its confidence interval."""

    value: float
    interval: Interval | None


Cell = str | float | int | Interval | None

REASONS = {"best": "Best", "worst": "Worst", "random": "Random"}


@dataclass(frozen=True)
class Source:
    """One instrument of a mix: what the separator saw, what it should have given and what it gave."""

    instrument: str
    clip: str
    picture: NDArray[np.uint8]  # (H, W, 3)
    localisation: NDArray[np.floating]  # (h, w) in 0..1, spread over the picture
    reference: Wave  # (S,)
    estimate: Wave  # (S,)
    scores: Mapping[str, float | None]  # SDR, SIR, SAR, SDRi, SIRi in dB; None: silent, so it has no score
    best: Wave | None = None  # (S,) what the best protocol made of it, beside the published one's estimate


@dataclass(frozen=True)
class Example:
    title: str
    why: str  # it is shown: best, worst or random
    mix: Wave  # (S,)
    sources: tuple[Source, ...]
    label: str = ""  # where it is found elsewhere, like "mix 17"


@dataclass(frozen=True)
class Table:
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]  # None: no value
    caption: str


def check_table(table: Table) -> None:
    """Raise ValueError for rows that do not fit the columns."""
    for number, row in enumerate(table.rows, start=1):
        if len(row) != len(table.columns):
            raise ValueError(
                f"table '{table.title}': row {number} has {len(row)} cells; give {len(table.columns)}, one a column"
            )


def check_example(example: Example) -> None:
    """Raise ValueError for arrays that cannot be shown side by side."""
    where = f"example '{example.title}'"
    if example.why not in REASONS:
        raise ValueError(f"{where}: why is '{example.why}'; choose {', '.join(REASONS)}")
    if not example.sources:
        raise ValueError(f"{where} has no sources; give one for every instrument of the mix")
    if example.mix.ndim != 1 or not example.mix.size:
        raise ValueError(f"{where}: the mix has shape {example.mix.shape}; give mono samples (S,)")
    for source in example.sources:
        of = f"{where}, {source.instrument}"
        for role, wave in (("reference", source.reference), ("estimate", source.estimate), ("best", source.best)):
            if wave is not None and wave.shape != example.mix.shape:
                raise ValueError(
                    f"{of}: the {role} has shape {wave.shape}, the mix {example.mix.shape}; cut both to one length"
                )
        picture, heat = source.picture, source.localisation
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or not picture.size:
            raise ValueError(f"{of}: the picture is {picture.dtype} {picture.shape}; give uint8 (H, W, 3)")
        if heat.ndim != 2 or not heat.size:
            raise ValueError(f"{of}: the localisation has shape {heat.shape}; give (h, w)")
