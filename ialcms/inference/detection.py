"""Finding the instruments of a video with a detector of `ialcms data detect`."""

from __future__ import annotations

from pathlib import Path

from ialcms.inference.frames import Frames
from ialcms.inference.objects import Box
from shards.detect import detect_frames
from shards.detector import load_detector

_DETECTION_FRAMES = 24  # in which instruments are detected, evenly spread over the video


def detect_objects(
    path: Path, weights: Path, seconds: float, *, min_score: float, device: str, count: int = 1
) -> list[list[Box]]:
    """The boxes of every class that a detector sees in frames all over the video, the surest class first.

    weights: of a detector. seconds: length of the video. min_score: least confidence. count: boxes of a class at most:
    its surest one, and the surest one of each of `count - 1` equal parts of the video. ValueError with what to do where
    there is none.
    """
    detector = load_detector(weights)
    model = detector.model.eval().to(device)
    found: dict[str, list[_Sighting]] = {}
    for number in range(_DETECTION_FRAMES):
        shown = next(Frames(path, (number + 0.5) * seconds / _DETECTION_FRAMES), None)
        if shown is None:
            break
        at_s, frame = max(shown[0], 0.0), shown[1]
        picture = frame.permute(2, 0, 1).float() / 255
        for _, label, score, x1, y1, x2, y2 in detect_frames(model, [(0, picture)], device, batch=1).tolist():
            if score >= min_score:
                name = detector.classes[int(label) - 1]
                found.setdefault(name, []).append((score, Box(x1, y1, x2, y2, at_s=at_s, name=name)))
    if not found:
        raise ValueError(
            f"the detector {weights} sees nothing in {path} with a confidence of {min_score:g} or more; "
            "lower --min-score, or show the instruments yourself with --boxes or --click"
        )
    surest_first = sorted(found.values(), key=lambda sightings: -max(score for score, _ in sightings))
    return [_spread(sightings, seconds, count) for sightings in surest_first]


_Sighting = tuple[float, Box]  # confidence, where


def _spread(sightings: list[_Sighting], seconds: float, count: int) -> list[Box]:
    """The surest one, then the surest one of each part of the video in which there are others."""
    by_score = sorted(sightings, key=lambda sighting: -sighting[0])
    of_parts: dict[int, Box] = {}
    for _, box in by_score:
        of_parts.setdefault(int(box.at_s / seconds * (count - 1)), box)
    surest = by_score[0][1]
    others = [box for _, box in sorted(of_parts.items()) if box is not surest]
    return [surest, *others][:count]
