"""The program's own files: configurations, data sets, DeepSpeed settings, batch files.

    own_folder("configs") / "duet.yaml"
    find_own("duet", "configs", ".yaml")      # the name of a configuration, or the path of any file

In a checkout they lie beside the package, as configs/ and slurm/; a wheel has them inside it, as ialcms/configs and
ialcms/slurm (`setup.py`).
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def own_folder(name: str) -> Path:
    """The folder `configs`, one in it like `configs/datasets`, or `slurm` that belongs to this program."""
    installed = _PACKAGE / name
    return installed if installed.is_dir() else _PACKAGE.parent / name


def find_own(path: str | Path, folder: str, suffix: str) -> Path:
    """The file that a user's path or name means.

    That is `path` itself where there is such a file, so that a user's own file comes first; else the program's own
    file of that name (`duet` in `configs`) or path (`configs/duet.yaml`); else `path`, which is not there.
    """
    path = Path(path)
    if path.is_file() or path.is_absolute():
        return path
    if len(path.parts) == 1 and not path.suffix:
        own = own_folder(folder) / f"{path.name}{suffix}"
    elif path.parts[:1] == ("configs",) and ".." not in path.parts:
        own = own_folder("configs").joinpath(*path.parts[1:])
    else:
        return path
    return own if own.is_file() else path


def own_names(folder: str, suffix: str) -> list[str]:
    """The names that `find_own` knows in `folder`."""
    return sorted(path.stem for path in own_folder(folder).glob(f"*{suffix}"))
