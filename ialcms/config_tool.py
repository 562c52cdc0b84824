"""`ialcms configs`: the program's own configurations listed, printed, explained, copied."""

from __future__ import annotations

import itertools
import textwrap
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ialcms import config
from ialcms.config.fields import LARGEST_OF_ALL
from ialcms.files import write_whole
from ialcms.own_files import own_folder, own_names

_OWN = ("configs", "slurm")


class _Dumper(yaml.SafeDumper):
    """A line for each field, also for lists."""


_Dumper.add_representer(list, lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:seq", items, True))


def list_configs() -> str:
    """The names of the program's own files, by what they are for, with a line each."""
    sections = {
        "configurations, like 'ialcms train duet' (the path of your own file works, too):":
            _with_purpose("configs", ".yaml"),
        "data sets, like 'ialcms data index data/my --dataset music':": _with_purpose("configs/datasets", ".yaml"),
        "DeepSpeed settings, like train.deepspeed_config=zero3:": [_in_a_row("configs/deepspeed", ".json")],
        "batch files for SLURM, after 'ialcms configs copy FOLDER':": [_in_a_row("slurm", ".sbatch")],
    }  # fmt: skip
    blocks = ["\n".join([title, *lines]) for title, lines in sections.items()]
    return "\n\n".join([*blocks, f"They lie in {own_folder('configs')} and {own_folder('slurm')}."])


def show_config(name: str, overrides: Sequence[str] = ()) -> str:
    """A configuration as YAML, with every default, `overrides` applied. ValueError where it is not usable."""
    values = config.to_dict(config.load_config(name, overrides))
    text: str = yaml.dump(values, Dumper=_Dumper, sort_keys=False, width=100)
    return text.rstrip()


def show_fields() -> str:
    """Every field of a configuration: default, range, meaning, and whether a resumed run may change it."""
    width = 100
    lines = ["* may differ when a run is resumed: it does not change what a step computes"]
    for field in config.fields_of(config.Config):
        mark = "*" if field.facts.may_change else " "
        lines.append(f"{mark} {field.name} = {_default(field.default)}{_range(field)}")
        lines += textwrap.wrap(field.facts.meaning, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def copy_own(folder: Path) -> list[Path]:
    """Copy configurations, data sets, DeepSpeed settings and batch files to `folder`; returns what was written.

    ValueError, before anything is written, where one of them is there already and differs.
    """
    contents = {}
    for name in _OWN:
        for source in sorted(path for path in own_folder(name).rglob("*") if path.is_file()):
            contents[folder / name / source.relative_to(own_folder(name))] = source.read_bytes()
    for target, content in contents.items():
        if target.exists() and not (target.is_file() and target.read_bytes() == content):
            raise ValueError(f"{target} is there already and differs; move it away, or copy to another folder")
    for target, content in contents.items():
        write_whole(target, content)
    return list(contents)


def _in_a_row(folder: str, suffix: str) -> str:
    return "  " + ", ".join(own_names(folder, suffix))


def _with_purpose(folder: str, suffix: str) -> list[str]:
    return [f"  {name:<16}{_purpose(own_folder(folder) / f'{name}{suffix}')}" for name in own_names(folder, suffix)]


def _purpose(path: Path) -> str:
    """The first sentence of the comment that the file begins with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = itertools.takewhile(lambda line: line.startswith("#"), lines)
    return " ".join(line.lstrip("# ") for line in comment).partition(". ")[0].rstrip(".")


def _default(value: Any) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value) or '""'


def _range(field: config.Field) -> str:
    facts = field.facts
    if facts.choices:
        return f"  ({', '.join(facts.choices)})"
    number = field.default[0] if isinstance(field.default, tuple) and field.default else field.default
    words = [word for kind in typing.get_args(field.type) for word in typing.get_args(kind)]
    if isinstance(number, bool) or not (isinstance(number, (int, float)) or number in words):
        return ""
    least = "0 or more" if facts.may_be_zero else "more than 0"
    most = f", at most {facts.largest:,}" if facts.largest < LARGEST_OF_ALL else ""
    return f"  ({' or '.join([*words, least])}{most})"
