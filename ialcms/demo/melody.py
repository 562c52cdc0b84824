"""Melodies: short motifs that are repeated, turned upside down and led over a scale. Also what music is made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ialcms.demo.instruments import Pace

SCALES: dict[str, tuple[int, ...]] = {  # semitones above the tonic
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "harmonic_minor": (0, 2, 3, 5, 7, 8, 11),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "pentatonic": (0, 2, 4, 7, 9),
    "minor_pentatonic": (0, 3, 5, 7, 10),
    "blues": (0, 3, 5, 6, 7, 10),
}

_RHYTHMS: dict[Pace, tuple[tuple[float, ...], ...]] = {  # beats
    Pace.SLOW: ((2,), (3, 1), (1, 1), (1.5, 0.5), (1, 1), (2, 1, 1)),
    Pace.MEDIUM: ((1, 1), (0.5, 0.5, 1), (1.5, 0.5), (0.75, 0.25, 1), (2,), (0.5,) * 4, (1 / 3, 1 / 3, 1 / 3, 1)),
    Pace.FAST: ((0.25,) * 4, (0.5, 0.25, 0.25), (0.25, 0.25, 0.5), (0.5, 0.5), (1 / 3,) * 3, (0.25,) * 8, (1,)),
}
_MELODY_STEPS = (-3, -2, -1, 0, 1, 2, 3, 4)  # along the scale
_MELODY_STEP_WEIGHTS = (0.06, 0.12, 0.3, 0.08, 0.26, 0.1, 0.05, 0.03)


@dataclass(frozen=True)
class Note:
    """One tone of a melody."""

    start_s: float  # may be negative: a clip is cut out of longer music
    duration_s: float
    pitch: float  # MIDI number; 69 is 440 Hz
    velocity: float  # 0 .. 1
    slide_semitones: float = 0.0  # the note starts this much off its pitch and glides there
    vibrato_cents: float = 0.0


@dataclass(frozen=True)
class Style:
    """How the player of a video plays."""

    lowest: int
    highest: int
    tonic: int  # 0 .. 11, C is 0
    scale: str
    tempo_bpm: float
    vibrato_cents: float
    slide_probability: float
    plays_intervals: bool  # accordion and mallets: melodies in parallel
    double_stops: bool  # bowed strings


@dataclass(frozen=True)
class Piece:
    """The music of one clip: who plays it, how fast, how long."""

    rng: np.random.Generator
    style: Style
    pace: Pace
    beat_s: float
    duration_s: float

    def note(self, start_s: float, duration_s: float, pitch: float, velocity: float) -> Note:
        """A note folded into the range.

        start_s, duration_s: seconds. pitch: MIDI number. velocity: loudness, up to 1.
        """
        return Note(
            float(start_s),
            float(max(0.05, duration_s)),
            self.fold(float(pitch)),
            velocity=float(np.clip(velocity, 0.1, 1.0)),
        )

    def fold(self, pitch: float) -> float:
        """The pitch, or the same one in the nearest octave that the instrument has."""
        while pitch < self.style.lowest:
            pitch += 12
        while pitch > self.style.highest:
            pitch -= 12
        return pitch

    def start_s(self, longest_lead_s: float) -> float:
        return -float(self.rng.uniform(0, longest_lead_s))

    def triad(self, degree: int, lowest: int, highest: int) -> list[int]:
        """Pitches from `lowest` to `highest` of the chord on a degree of the scale, its root at the bottom."""
        scale = SCALES[self.style.scale]
        if len(scale) < 7:  # chords need a full scale
            scale = SCALES["major" if 4 in scale else "minor"]
        classes = [(self.style.tonic + scale[(degree + third) % 7]) % 12 for third in (0, 2, 4)]
        root = next(pitch for pitch in range(lowest, lowest + 12) if pitch % 12 == classes[0])
        return [pitch for pitch in range(root, highest + 1) if pitch % 12 in classes]


@dataclass(frozen=True)
class _Motif:
    beats: tuple[float, ...]
    steps: tuple[int, ...]  # along the scale, before each note


def _draw_motif(rng: np.random.Generator, pace: Pace) -> _Motif:
    beats: list[float] = []
    length = rng.choice([3, 4, 4, 6])
    while sum(beats) < length:
        beats += _RHYTHMS[pace][rng.integers(len(_RHYTHMS[pace]))]
    kind, direction = rng.random(), int(rng.choice([-1, 1]))
    if kind < 0.25:  # a run
        steps = np.full(len(beats), direction)
    elif kind < 0.4:  # an arpeggio
        steps = direction * rng.choice([2, 2, 3], len(beats))
    else:
        steps = rng.choice(_MELODY_STEPS, len(beats), p=_MELODY_STEP_WEIGHTS)
    return _Motif(tuple(beats), tuple(int(step) for step in steps))


class _ScaleWalk:
    """A position on a scale that turns round at the ends of the range and is drawn to its middle."""

    def __init__(self, rng: np.random.Generator, pitches: list[int]):
        self._rng = rng
        self._pitches = pitches
        self._centre = rng.uniform(0.3, 0.7) * (len(pitches) - 1)
        self._index = round(self._centre)
        self._direction = 1

    def turn(self) -> None:
        """A new motif: sometimes upside down."""
        self._direction = -1 if self._rng.random() < 0.2 else 1

    def move(self, steps: int) -> int:
        index = self._index + steps * self._direction
        last = len(self._pitches) - 1
        if not 0 <= index <= last:
            index = int(np.clip(-index if index < 0 else 2 * last - index, 0, last))
            self._direction = -self._direction
        if self._rng.random() < 0.12:
            index = round(index + 0.4 * (self._centre - index))
        self._index = index
        return self._pitches[index]


def melody(piece: Piece, lowest: int, articulation: float, pause_probability: float = 0.3) -> list[Note]:
    """One voice from `lowest` up; notes last `articulation` times their written length.

    piece: to which it belongs. pause_probability: of a pause instead of a note.
    """
    rng, style, beat_s = piece.rng, piece.style, piece.beat_s
    scale = SCALES[style.scale]
    walk = _ScaleWalk(rng, [p for p in range(lowest, style.highest + 1) if (p - style.tonic) % 12 in scale])
    motifs = [_draw_motif(rng, piece.pace) for _ in range(2)]
    loudness = rng.uniform(0.5, 0.85)
    notes: list[Note] = []
    now_s = piece.start_s(2.0)
    while now_s < piece.duration_s:
        for _ in range(rng.integers(2, 5)):
            motif = motifs[int(rng.random() < 1 / 3)]
            walk.turn()
            loudness = np.clip(loudness + rng.normal(0, 0.12), 0.35, 1.0)
            for beats, step in zip(motif.beats, motif.steps):
                pitch = walk.move(step)
                sounding = articulation if rng.random() > 0.15 else 0.5
                if rng.random() > 0.04:
                    start_s = now_s + rng.normal(0, 0.008)
                    notes.append(
                        piece.note(
                            start_s, beats * beat_s * sounding, pitch, velocity=max(0.25, rng.normal(loudness, 0.06))
                        )
                    )
                now_s += beats * beat_s
        if notes:  # the phrase ends on a longer note, then the player takes a breath
            last = notes.pop()
            longer_s = last.duration_s + beat_s * rng.uniform(0.3, 1.2)
            notes.append(piece.note(last.start_s, longer_s, last.pitch, velocity=last.velocity))
        now_s += min(0.8, beat_s * rng.choice([0.5, 1.0, 1.5]))
        if rng.random() < pause_probability:
            now_s += rng.uniform(0.2, 0.8)
    return notes
