"""What is played: random but musical solo phrases, as notes.

Winds and bowed strings sing, guitars pick, strum or accompany themselves, accordions have a left hand, mallets roll.
"""

from __future__ import annotations

import numpy as np

from ialcms.demo.instruments import Family, Instrument, Pace
from ialcms.demo.melody import Note, Piece, Style, melody

_PACES = tuple(Pace)
_SLOWEST_TEMPO_OF_SLOW_MUSIC = 84.0  # beats a minute: long notes at a lower tempo leave a clip nearly empty


def draw_style(rng: np.random.Generator, instrument: Instrument) -> Style:
    """A random style of playing that fits an instrument."""
    lowest, highest = instrument.ranges[rng.integers(len(instrument.ranges))]
    return Style(
        lowest=lowest,
        highest=highest,
        tonic=int(rng.integers(12)),
        scale=str(rng.choice(instrument.scales)),
        tempo_bpm=float(rng.uniform(66, 148)),
        vibrato_cents=float(instrument.vibrato_cents * rng.uniform(0.4, 1.5)),
        slide_probability=instrument.slide_probability,
        plays_intervals=bool(rng.random() < 0.4),
        double_stops=bool(instrument.has_double_stops and rng.random() < 0.3),
    )


def compose(rng: np.random.Generator, instrument: Instrument, style: Style, duration_s: float) -> list[Note]:
    """The notes that sound in a clip of `duration_s`, by start; all pitches are within the style's range.

    rng: of all that is drawn. instrument: for scale and family.
    """
    pace = _PACES[rng.choice(len(_PACES), p=instrument.pace_weights)]
    tempo_bpm = style.tempo_bpm * rng.uniform(0.93, 1.07)
    if pace is Pace.SLOW:
        tempo_bpm = max(tempo_bpm, _SLOWEST_TEMPO_OF_SLOW_MUSIC)
    piece = Piece(rng, style, pace, beat_s=60.0 / tempo_bpm, duration_s=duration_s)
    notes = {
        Family.GUITAR: _guitar,
        Family.BELLOWS: _accordion,
        Family.MALLET: _mallets,
        Family.WIND: _singing,
        Family.BOWED: _singing,
    }[instrument.family](piece)
    audible = [note for note in notes if note.start_s < duration_s and note.start_s + note.duration_s > 0]
    return sorted(audible, key=lambda note: (note.start_s, note.pitch))


def _singing(piece: Piece) -> list[Note]:
    """Winds and bowed strings: vibrato on long notes, slides between neighbours, a few double stops."""
    rng, style = piece.rng, piece.style
    articulation = 1.0 if rng.random() < 0.75 else 0.55
    notes: list[Note] = []
    previous_pitch: float | None = None
    for plain in melody(piece, style.lowest, articulation):
        interval = 0.0 if previous_pitch is None else previous_pitch - plain.pitch
        slides = 1 <= abs(interval) < 8 and rng.random() < style.slide_probability
        notes.append(
            Note(
                plain.start_s,
                plain.duration_s,
                plain.pitch,
                velocity=plain.velocity,
                slide_semitones=float(np.clip(interval, -5, 5)) if slides else 0.0,
                vibrato_cents=style.vibrato_cents * float(np.clip(3 * (plain.duration_s - 0.12), 0, 1)),
            )
        )
        previous_pitch = plain.pitch
        if style.double_stops and plain.duration_s > 0.3 and rng.random() < 0.25:
            second = plain.pitch - rng.choice([3, 4, 5, 7, 9])
            notes.append(piece.note(plain.start_s, plain.duration_s, second, velocity=0.7 * plain.velocity))
    return notes


def _mallets(piece: Piece) -> list[Note]:
    """Bars: short strokes, long notes as rolls, now and then two bars at once."""
    rng, style = piece.rng, piece.style
    ring_s = 0.5
    notes: list[Note] = []
    for plain in melody(piece, style.lowest, articulation=1.0):
        if plain.duration_s > 0.7 and rng.random() < 0.75:
            period_s = rng.uniform(0.06, 0.09)
            for stroke_s in np.arange(plain.start_s, plain.start_s + 0.95 * plain.duration_s, period_s):
                velocity = plain.velocity * rng.uniform(0.6, 0.85)
                notes.append(piece.note(stroke_s + rng.normal(0, 0.004), 0.4, plain.pitch, velocity=velocity))
        else:
            notes.append(piece.note(plain.start_s, ring_s, plain.pitch, velocity=plain.velocity))
        if style.plays_intervals and rng.random() < 0.3:
            second = plain.pitch - rng.choice([3, 4, 7, 12])
            notes.append(
                piece.note(plain.start_s + rng.normal(0, 0.005), ring_s, second, velocity=0.8 * plain.velocity)
            )
    return notes


def _guitar(piece: Piece) -> list[Note]:
    """Fingerpicking, strumming, or a melody over a bass, on a progression of chords, one a bar of four beats."""
    rng, style, beat_s = piece.rng, piece.style, piece.beat_s
    texture = rng.choice(3, p=[0.45, 0.25, 0.3])
    progression = [int(degree) for degree in rng.choice([0, 3, 4, 5, 1, 2], rng.integers(3, 5))]
    picking = rng.choice([0, 2, 1, 3, 2, 4], 8)
    melody_lowest = 55
    notes = melody(piece, melody_lowest, articulation=1.6) if texture == 2 else []
    bar_s = piece.start_s(1.5)
    bar = 0
    while bar_s < piece.duration_s:
        chord = piece.triad(progression[bar % len(progression)], style.lowest, 72)
        if texture == 0:
            notes += _picked_bar(piece, bar_s, chord, picking=picking)
        elif texture == 1:
            notes += _strummed_bar(piece, bar_s, chord)
        else:
            notes.append(piece.note(bar_s, 3.5 * beat_s, chord[0], velocity=0.6))
            notes.append(piece.note(bar_s + 2 * beat_s, 2 * beat_s, chord[1], velocity=0.5))
        bar_s += 4 * beat_s
        bar += 1
    return notes


def _picked_bar(piece: Piece, bar_s: float, chord: list[int], picking: np.ndarray) -> list[Note]:
    """A bar of single plucked notes from `bar_s` on. chord: pitches. picking: which of them comes when."""
    rng, beat_s = piece.rng, piece.beat_s
    upper = chord[2:7]
    notes = []
    for eighth in range(8):
        start_s = bar_s + eighth * beat_s / 2
        if eighth % 4 == 0:
            bass = chord[0] if eighth == 0 else chord[1]
            notes.append(piece.note(start_s, 2.4 * beat_s, bass, velocity=rng.normal(0.75, 0.05)))
        if rng.random() < 0.9:
            pitch = upper[picking[eighth] % len(upper)]
            notes.append(
                piece.note(start_s + rng.normal(0, 0.006), 1.8 * beat_s, pitch, velocity=rng.normal(0.55, 0.08))
            )
    return notes


def _strummed_bar(piece: Piece, bar_s: float, chord: list[int]) -> list[Note]:
    rng, beat_s = piece.rng, piece.beat_s
    notes = []
    for beat in (0, 1, 1.5, 2, 2.5, 3, 3.5):
        if rng.random() > 0.8:
            continue
        downstroke = float(beat).is_integer()
        strings = chord[:6] if downstroke else chord[2:6][::-1]
        loudness = 0.65 if beat == 0 else 0.5
        for order, pitch in enumerate(strings):
            start_s = bar_s + beat * beat_s + order * rng.uniform(0.006, 0.02)
            notes.append(piece.note(start_s, 1.2 * beat_s, pitch, velocity=rng.normal(loudness, 0.05)))
    return notes


def _accordion(piece: Piece) -> list[Note]:
    """A melody, perhaps in thirds, and mostly a left hand of bass notes and chords."""
    rng, style = piece.rng, piece.style
    melody_lowest = 64
    notes = []
    for plain in melody(piece, melody_lowest, articulation=0.95, pause_probability=0.15):
        notes.append(plain)
        if style.plays_intervals and plain.duration_s > 0.18:
            second = plain.pitch - rng.choice([3, 4])
            notes.append(piece.note(plain.start_s, plain.duration_s, second, velocity=0.8 * plain.velocity))
    if rng.random() < 0.65:
        notes += _left_hand(piece)
    return notes


def _left_hand(piece: Piece) -> list[Note]:
    rng, beat_s = piece.rng, piece.beat_s
    progression = rng.choice([0, 3, 4, 0, 5], 4)
    sustained = rng.random() < 0.4
    beats_per_bar = int(rng.choice([2, 3]))
    chord_lowest = 50
    notes = []
    bar_s = piece.start_s(1.5)
    bar = 0
    while bar_s < piece.duration_s:
        root, third, fifth = piece.triad(int(progression[bar % 4]), chord_lowest, chord_lowest + 24)[:3]
        # in the octave from `chord_lowest` on: an inversion where the chord would reach beyond
        chord = [chord_lowest + (pitch - chord_lowest) % 12 for pitch in (root, third, fifth)]
        if sustained:
            notes += [piece.note(bar_s, 0.97 * beats_per_bar * beat_s, pitch, velocity=0.45) for pitch in chord]
        else:
            notes.append(piece.note(bar_s, 0.6 * beat_s, root - 12, velocity=0.6))
            for beat in range(1, beats_per_bar):
                notes += [piece.note(bar_s + beat * beat_s, 0.4 * beat_s, pitch, velocity=0.45) for pitch in chord]
        bar_s += beats_per_bar * beat_s
        bar += 1
    return notes
