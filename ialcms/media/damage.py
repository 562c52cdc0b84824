"""What is missing in a stream of a media file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Damage:
    """What is missing in a stream, as far as it was read."""

    packets: int = 0  # that could not be decoded
    stopped: bool = False  # reading ended at one of them
    first_s: float | None = None  # where the first of them is
    holes: int = 0  # gaps in the sound, by the time stamps
    hole_s: float = 0.0  # their length together
    first_hole_s: float | None = None
    overlap_s: float = 0.0  # of sound that came twice, by the time stamps; its second half is left out
    jumps: tuple[str, ...] = ()  # of the time stamps, as text
    breaks_off_s: float | None = None  # where the stream ends, if the file says that it is longer
    declared_s: float | None = None  # how long the file says that it is
    unread_bytes: int = 0  # behind the last packet that FFmpeg found, where it must be a good part of the file

    def add(self, at_s: float | None) -> None:
        """Count a packet that could not be decoded. at_s: on the file's time line, if known."""
        self.packets += 1
        self.first_s = at_s if self.first_s is None else self.first_s

    def add_hole(self, at_s: float, length_s: float) -> None:
        """Count a gap in the sound. at_s: where it begins, on the file's time line."""
        self.holes, self.hole_s = self.holes + 1, self.hole_s + length_s
        self.first_hole_s = at_s if self.first_hole_s is None else self.first_hole_s

    def __bool__(self) -> bool:
        return bool(self.parts())

    def __str__(self) -> str:
        return "; ".join(self.parts())

    def parts(self) -> list[str]:
        """What is missing, in words: one text for each kind of damage."""
        parts = []
        if self.packets:
            where = "" if self.first_s is None else f", the first at {self.first_s:.1f} s"
            parts.append(f"damaged packets: {self.packets}{where}")
        if self.holes:
            parts.append(f"holes: {self.holes}, {self.hole_s:.1f} s together, the first at {self.first_hole_s:.1f} s")
        if self.overlap_s:
            parts.append(f"time stamps overlap by {self.overlap_s:.1f} s")
        if self.breaks_off_s is not None:
            length = "" if self.declared_s is None else f" of {self.declared_s:.1f} s"
            parts.append(f"breaks off at {self.breaks_off_s:.1f} s{length}")
        return parts + self.of_file()

    def of_file(self) -> list[str]:
        """What is wrong with the file, not with one of its streams."""
        unread = f"the file's last {self.unread_bytes} bytes cannot be read"
        return [*self.jumps, unread] if self.unread_bytes else list(self.jumps)
