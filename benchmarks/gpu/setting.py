"""What a part is given, and how it hands over what it measures."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Setting:
    """Of one part; plain values only, as it travels to another process."""

    device: str  # cuda or cpu
    small: bool  # small networks and few repetitions
    seconds: float  # for this part ...
    work: str  # folder that all parts share
    rows: str  # file for what this part measures
    since: float  # ... from this value of the monotonic clock on
    shards: str = ""  # synthetic ones, for the parts that need some
    earlier: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # part -> rows of those that ran before

    @property
    def torch_device(self) -> torch.device:
        import torch

        return torch.device(self.device)


class Recorder:
    """Writes each figure down at once: what a part had measured before it was ended stays."""

    def __init__(self, setting: Setting) -> None:
        self._path = Path(setting.rows)
        self._deadline = setting.since + setting.seconds

    @property
    def seconds_left(self) -> float:
        return self._deadline - time.monotonic()

    def add(self, name: str, value: float | int | str | bool | None, unit: str = "", note: str = "") -> None:
        """One line of the table; value None: it could not be measured, and the note says why.

        name: of what was measured. unit: of the value.
        """
        if isinstance(value, float) and not math.isfinite(value):
            value, note = None, f"not a finite number: {value}; {note}".rstrip("; ")
        row = {"name": name, "value": value, "unit": unit, "note": note}
        with open(self._path, "a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{name}: {shown(value)} {unit} {note}".rstrip(), flush=True)

    def missing(self, name: str, error: BaseException | str) -> None:
        """This figure could not be taken."""
        reason = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        self.add(name, None, note=" ".join(reason.split())[:300])


def read_rows(path: Path) -> list[dict[str, Any]]:
    """What a part has written so far; a line that its end cut off is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def shown(value: Any) -> str:
    """A figure with four digits that count."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
