"""What an earlier separation into the same folder left: its files are replaced, others are never overwritten.

The names of its stems are in its record, `separation.json`, and, until that is written, in a claim: a separation that
was killed is recognised too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from ialcms.files import write_whole
from ialcms.reading.text import read_json

RECORD, PAGE = "separation.json", "listen.html"
_CLAIM = ".separating"


def names_of_earlier(out: Path) -> set[str]:
    """Names of the stems that earlier separations wrote into the folder `out`."""
    return _recorded(out / RECORD) | _recorded(out / _CLAIM)


def claim_names(out: Path, names: Iterable[str]) -> None:
    """Write down the names of stems before there are files of these names. ValueError where that fails."""
    claimed = [{"name": name} for name in sorted(names)]
    write_whole(out / _CLAIM, json.dumps({"objects": claimed}))


def end_claim(out: Path) -> None:
    """The record is written: it names the stems from now on."""
    (out / _CLAIM).unlink()


def refuse_foreign(written: Sequence[Path], ours: set[str]) -> None:
    """ValueError for a file of the user's that has the name of a result; those of an earlier one may be replaced.

    written: all results. ours: names of earlier stems.
    """
    ours = ours | {"remainder", Path(RECORD).stem, Path(PAGE).stem} if ours else ours
    for path in written:
        if path.exists() and path.stem not in ours:
            raise ValueError(
                f"{path} is there already, and no earlier separation wrote it; give another folder for the stems "
                "(--out)"
            )


def remove_earlier(out: Path, kept: set[Path]) -> None:
    """Remove what earlier separations into `out` wrote, but for the files `kept`: all that stay belong together."""
    names = names_of_earlier(out)
    resolved = {path.resolve() for path in kept}
    earlier = [out / f"{name}{ending}" for name in names for ending in (".wav", ".mp4")]
    for path in [*earlier, out / PAGE] if names else []:
        if path.parent == out and path.resolve() not in resolved:
            path.unlink(missing_ok=True)


def _recorded(path: Path) -> set[str]:
    """Names of stems in a record; none where there is none, or where the file is none of ours."""
    try:
        return {str(entry["name"]) for entry in read_json(path)["objects"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
