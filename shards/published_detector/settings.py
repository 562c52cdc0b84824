"""What the published detector finds, and what users of the published script can set."""

from __future__ import annotations

from dataclasses import dataclass

CLASSES = (
    "Banjo", "Cello", "Drum", "Guitar", "Harp", "Harmonica", "Oboe", "Piano", "Saxophone", "Trombone", "Trumpet",
    "Violin", "Flute", "Accordion", "Horn",
)  # fmt: skip
POOLINGS = ("legacy", "adaptive")


@dataclass(frozen=True)
class PublishedSettings:
    """The published values by default. Raises ValueError for values out of range."""

    pooling: str = "legacy"  # or "adaptive": of the published code's branches master and pytorch-1.0
    min_score: float = 0.3  # a box with exactly this score is rejected
    max_overlap: float = 0.3  # of two boxes of a class
    short_side: int = 800  # pixels, that pictures are scaled to ...
    long_side: int = 1200  # ... unless the long side exceeds this
    candidates: int = 6000  # boxes, by score, among which proposals are chosen
    proposals: int = 1000  # per picture
    proposal_overlap: float = 0.7  # of two proposals

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise ValueError(f"--pooling '{self.pooling}': choose {' or '.join(POOLINGS)}")
        for name in ("min_score", "max_overlap", "proposal_overlap"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ValueError(f"{option(name)} {value}: give 0 or more, and less than 1")
        for name in ("candidates", "proposals"):
            if getattr(self, name) < 1:
                raise ValueError(f"{option(name)} {getattr(self, name)}: give at least 1")
        if not 32 <= self.short_side <= self.long_side:
            raise ValueError(
                f"--short-side {self.short_side}, --long-side {self.long_side}: give 32 pixels or more, the short side "
                "not above the long one"
            )


def option(name: str) -> str:
    """The command line's word for a setting."""
    return f"--{name.replace('_', '-')}"
