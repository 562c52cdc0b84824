"""What an object detector would report of a clip: the exact boxes with its imperfections."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ialcms.demo.instruments import BY_NAME, INSTRUMENTS, Instrument

NUM_COLUMNS = 7  # frame_index, class_id, confidence, x1, y1, x2, y2
_SMALLEST_SIDE_PX = 4.0
_CONFUSED_WITH: dict[str, tuple[str, ...]] = {
    "acoustic_guitar": ("cello", "violin"),
    "clarinet": ("flute",),
    "saxophone": ("trumpet", "tuba"),
    "violin": ("cello", "erhu"),
    "flute": ("clarinet",),
    "cello": ("violin", "acoustic_guitar"),
    "trumpet": ("saxophone", "tuba"),
    "tuba": ("trumpet", "saxophone"),
    "accordion": ("xylophone",),
    "xylophone": ("accordion",),
    "erhu": ("violin", "cello"),
}


@dataclass(frozen=True)
class Ghost:
    """Something in the room that the detector keeps taking for an instrument."""

    class_id: int
    box: tuple[float, float, float, float]  # x1, y1, x2, y2 in fractions of the frame


@dataclass(frozen=True)
class Detector:
    """How well a video suits the detector."""

    confidence: float  # typical, of the true box
    miss_probability: float
    box_bias: tuple[float, float, float, float]  # of x1, y1, x2, y2 in fractions of the box's sides
    ghost: Ghost | None


def draw_detector(rng: np.random.Generator) -> Detector:
    """The errors of a detector, drawn at random."""
    ghost = None
    if rng.random() < 0.2:
        x, y = rng.uniform(0, 0.7, 2)
        width, height = rng.uniform(0.1, 0.3, 2)
        ghost = Ghost(_any_class(rng), (x, y, x + width, y + height))
    return Detector(
        confidence=float(rng.uniform(0.75, 0.98)),
        miss_probability=float(rng.uniform(0.01, 0.12)),
        box_bias=tuple(rng.normal(0, 0.03, 4)),
        ghost=ghost,
    )


def detect(
    rng: np.random.Generator,
    detector: Detector,
    instrument: Instrument,
    boxes: np.ndarray,
    frame_size: tuple[int, int],
) -> np.ndarray:
    """Detections of frames whose exact boxes, (n, 4) in pixels, are given; frames count from 1.

    Returns float32 (D, 7): frame_index, class_id, confidence, x1, y1, x2, y2 in pixels within the frame, by frame.

    detector: with its typical errors. instrument: that is to be seen. frame_size: width and height.
    """
    width, height = frame_size
    frame = np.array([width, height, width, height], float)
    bias = np.array(detector.box_bias)
    rows: list[np.ndarray] = []

    def jittered(exact: np.ndarray, strength: float) -> np.ndarray:
        sides = np.tile(exact[2:] - exact[:2], 2)
        return exact + sides * (bias + rng.normal(0, strength, 4))

    for frame_index, exact in enumerate(boxes.astype(float), start=1):
        reports: list[tuple[int, float, np.ndarray]] = []  # class, confidence, box
        if rng.random() > detector.miss_probability:
            confidence = 1 - (1 - detector.confidence) * rng.exponential()
            reports.append((instrument.class_id, confidence, jittered(exact, 0.025)))
        if rng.random() < 0.1:  # a second, worse box
            reports.append((instrument.class_id, rng.uniform(0.1, 0.5), jittered(exact, 0.18)))
        if rng.random() < 0.12:
            similar = BY_NAME[str(rng.choice(_CONFUSED_WITH[instrument.name]))]
            reports.append((similar.class_id, rng.uniform(0.08, 0.55), jittered(exact, 0.06)))
        if rng.random() < 0.05:  # a false alarm anywhere
            corner = rng.uniform(0, 0.7, 2)
            anywhere = np.concatenate([corner, corner + rng.uniform(0.1, 0.5, 2)])
            reports.append((_any_class(rng), rng.uniform(0.05, 0.5), anywhere * frame))
        if detector.ghost and rng.random() < 0.4:
            seen = np.array(detector.ghost.box) * frame + rng.normal(0, 0.015 * height, 4)
            reports.append((detector.ghost.class_id, rng.uniform(0.1, 0.6), seen))
        for class_id, confidence, box in reports:
            visible = np.clip(box, 0, frame)
            if min(visible[2:] - visible[:2]) >= _SMALLEST_SIDE_PX:
                rows.append(np.array([frame_index, class_id, np.clip(confidence, 0.05, 0.999), *visible]))
    return np.array(rows, np.float32).reshape(-1, NUM_COLUMNS)


def _any_class(rng: np.random.Generator) -> int:
    return INSTRUMENTS[rng.integers(len(INSTRUMENTS))].class_id
