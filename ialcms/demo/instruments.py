"""The instruments of the demo, in class order, with what matters to a composer: range and habits of the players."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Family(enum.Enum):
    """How an instrument is played, which decides what music it gets and how its notes sound."""

    GUITAR = "guitar"
    WIND = "wind"
    BOWED = "bowed"
    BELLOWS = "bellows"
    MALLET = "mallet"


class Pace(enum.Enum):
    """How fast an instrument usually plays."""

    SLOW = "slow"
    MEDIUM = "medium"
    FAST = "fast"


@dataclass(frozen=True)
class Instrument:
    """What all instruments of one name have in common: range, sound and way of playing."""

    name: str
    class_id: int  # of the object detector; 0 is its background
    family: Family
    ranges: tuple[tuple[int, int], ...]  # lowest and highest MIDI pitch of each size that is built
    scales: tuple[str, ...]  # keys of `music.SCALES`; repeated: more often
    vibrato_cents: float = 0.0
    slide_probability: float = 0.0
    has_double_stops: bool = False  # bowed on two strings at once
    pace_weights: tuple[float, float, float] = (0.22, 0.45, 0.33)  # slow, medium, fast

    @property
    def lowest(self) -> int:
        return min(low for low, _ in self.ranges)


_CLASSICAL = ("major", "major", "minor", "harmonic_minor", "dorian", "pentatonic")
_FOLK = ("major", "minor", "dorian", "mixolydian", "pentatonic")
_JAZZ = ("blues", "dorian", "mixolydian", "major", "minor")

INSTRUMENTS: tuple[Instrument, ...] = (
    Instrument("acoustic_guitar", 1, Family.GUITAR, ranges=((40, 79),), scales=_FOLK),
    Instrument("clarinet", 2, Family.WIND, ranges=((50, 86),), scales=_CLASSICAL, vibrato_cents=3),
    Instrument(
        "saxophone",
        3,
        Family.WIND,
        ranges=((58, 84), (50, 78), (45, 73), (38, 66)),  # soprano, alto, tenor, baritone
        scales=_JAZZ,
        vibrato_cents=18,
        slide_probability=0.15,
    ),
    Instrument(
        "violin",
        4,
        Family.BOWED,
        ranges=((55, 93),),
        scales=_CLASSICAL,
        vibrato_cents=22,
        slide_probability=0.15,
        has_double_stops=True,
    ),
    Instrument("flute", 5, Family.WIND, ranges=((60, 93),), scales=_CLASSICAL, vibrato_cents=12),
    Instrument(
        "cello",
        6,
        Family.BOWED,
        ranges=((36, 69),),
        scales=_CLASSICAL,
        vibrato_cents=20,
        slide_probability=0.15,
        has_double_stops=True,
        pace_weights=(0.35, 0.45, 0.2),
    ),
    Instrument(
        "trumpet", 7, Family.WIND, ranges=((54, 82),), scales=_CLASSICAL, vibrato_cents=9, slide_probability=0.05
    ),
    Instrument(
        "tuba", 8, Family.WIND, ranges=((29, 55),), scales=_CLASSICAL, vibrato_cents=4, pace_weights=(0.25, 0.55, 0.2)
    ),
    Instrument("accordion", 9, Family.BELLOWS, ranges=((43, 86),), scales=("major", "minor", "harmonic_minor")),
    Instrument("xylophone", 10, Family.MALLET, ranges=((65, 101),), scales=_CLASSICAL, pace_weights=(0.1, 0.4, 0.5)),
    Instrument(
        "erhu",
        11,
        Family.BOWED,
        ranges=((62, 88),),
        scales=("pentatonic", "pentatonic", "minor_pentatonic", "minor"),
        vibrato_cents=35,
        slide_probability=0.75,
        pace_weights=(0.4, 0.45, 0.15),
    ),
)
BY_NAME: dict[str, Instrument] = {instrument.name: instrument for instrument in INSTRUMENTS}
