"""How the members of a clip are named in a shard: its key, a dot, and what each member is."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

MEMBERS = "members"  # in a manifest's info, for shards that another program wrote


@dataclass(frozen=True)
class Naming:
    """What follows the key and the dot. In names of pictures '*' stands for the frame's number; a picture whose name
    has none shows all boxes of its clip.
    """

    sound: tuple[str, ...] = ("flac", "wav")
    picture: tuple[str, ...] = ("*.jpg", "*.jpeg", "*.png")
    boxes: tuple[str, ...] = ("npy",)
    metadata: tuple[str, ...] = ("json",)

    @classmethod
    def of(cls, info: dict[str, Any]) -> Naming:
        """That of a manifest's shards, from its info. Raises ValueError when it is damaged."""
        named = info.get(MEMBERS)
        if named is None:
            return OURS
        fields = cls.__dataclass_fields__
        if not isinstance(named, dict) or not all(_is_names(value) for value in named.values()):
            raise ValueError(f"its '{MEMBERS}' are no names of members")
        if named.keys() - fields.keys():
            raise ValueError(f"its '{MEMBERS}' are {', '.join(sorted(named))}; known: {', '.join(fields)}")
        return cls(**{kind: tuple(names) for kind, names in named.items()})

    def to_info(self) -> dict[str, list[str]]:
        return {kind: list(getattr(self, kind)) for kind in self.__dataclass_fields__}

    def frame(self, suffix: str) -> int | None:
        """Number of the frame that a picture shows, -1 where its name has none; None for what is no picture."""
        for pattern in self.picture:
            match = _pattern(pattern).fullmatch(suffix)
            if match:
                return int(match[1]) if match.groups() else -1
        return None


OURS = Naming()


def split_name(name: str) -> tuple[str, str]:
    """'folder/key.suffix' -> ('folder/key', 'suffix'), by WebDataset's rule: the first dot of the file's name."""
    folder, _, base = name.removeprefix("./").rpartition("/")
    key, _, suffix = base.partition(".")
    return (f"{folder}/{key}" if folder else key), suffix


def first_of(members: dict[str, Any], names: Iterable[str]) -> Any:
    """The content of the first of these that is there, or None."""
    return next((members[name] for name in names if name in members), None)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) and 0 < len(name) < 100 for name in value)


@functools.lru_cache
def _pattern(text: str) -> re.Pattern[str]:
    before, star, after = text.partition("*")
    return re.compile(f"{re.escape(before)}{'([0-9]{1,9})' if star else ''}{re.escape(after)}")
