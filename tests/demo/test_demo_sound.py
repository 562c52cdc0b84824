"""Music, synthesis and rooms of the demo."""

import dataclasses

import numpy as np
import pytest

from ialcms.demo.instruments import BY_NAME, INSTRUMENTS, Family
from ialcms.demo.melody import Note
from ialcms.demo.music import compose, draw_style
from ialcms.demo.room import draw_room, record
from ialcms.demo.synthesis import SAMPLE_RATE, _decaying_partials, draw_voice, synthesize
from ialcms.demo.video import NUM_SAMPLES, Video, VideoId, draw_video, make_wave

FRAME_SIZE = (96, 72)


def _video(name: str, number: int = 0, seed: int = 0) -> Video:
    return draw_video(VideoId(seed, BY_NAME[name], number), FRAME_SIZE)


def _hz(pitch: float) -> float:
    return 440.0 * 2 ** ((pitch - 69) / 12)


def _by_name(instrument):
    return instrument.name


def test_classes_are_numbered_from_one_in_the_published_order():
    expected = ["acoustic_guitar", "clarinet", "saxophone", "violin", "flute", "cello"]
    expected += ["trumpet", "tuba", "accordion", "xylophone", "erhu"]
    assert [(i.name, i.class_id) for i in INSTRUMENTS] == [(name, n) for n, name in enumerate(expected, start=1)]


@pytest.mark.parametrize("instrument", INSTRUMENTS, ids=_by_name)
def test_notes_are_playable(instrument):
    for seed in range(12):
        rng = np.random.default_rng(seed)
        style = draw_style(rng, instrument)
        notes = compose(rng, instrument, style, 10.0)
        assert len(notes) >= 5
        assert all(style.lowest <= note.pitch <= style.highest for note in notes)
        assert all(0 < note.velocity <= 1 and note.duration_s > 0 for note in notes)
        assert all(note.start_s < 10 < 10 + note.start_s + note.duration_s for note in notes)
        assert [note.start_s for note in notes] == sorted(note.start_s for note in notes)


def test_only_bowed_and_wind_players_bend_notes():
    for instrument in INSTRUMENTS:
        bends = False
        for seed in range(6):
            rng = np.random.default_rng(seed)
            notes = compose(rng, instrument, draw_style(rng, instrument), 10.0)
            bends |= any(note.vibrato_cents or note.slide_semitones for note in notes)
        assert bends == (instrument.family in (Family.BOWED, Family.WIND)), instrument.name


@pytest.mark.parametrize("instrument", INSTRUMENTS, ids=_by_name)
def test_a_note_sounds_at_its_pitch(instrument):
    lowest, highest = instrument.ranges[0]
    for seed, pitch in enumerate((lowest + 3, (lowest + highest) // 2)):
        rng = np.random.default_rng(seed)
        voice = dataclasses.replace(draw_voice(rng), tuning_cents=0.0)
        wave = synthesize(rng, instrument, voice, [Note(0.0, 0.5, pitch, 0.8)], 0.5)[:4096]
        # the spectrum of the autocorrelation has no phases: its period is the note's
        power = np.abs(np.fft.rfft(wave, 4 * len(wave))) ** 2
        correlation = np.fft.irfft(power)
        lags = np.arange(round(SAMPLE_RATE / _hz(pitch + 11)), round(SAMPLE_RATE / _hz(pitch - 11)))
        best = lags[correlation[lags].argmax()]
        left, middle, right = correlation[best - 1 : best + 2]
        period = best + 0.5 * (left - right) / (left - 2 * middle + right)
        cents = 1200 * np.log2(SAMPLE_RATE / period / _hz(pitch))
        assert abs(cents) < 35, f"{cents:.0f} cents off at pitch {pitch}"


@pytest.mark.parametrize("instrument", INSTRUMENTS, ids=_by_name)
def test_clips_are_audible_and_within_the_instruments_range(instrument):
    video = _video(instrument.name)
    wave = make_wave(video, 0)
    assert wave.shape == (NUM_SAMPLES,)
    assert wave.dtype == np.float32
    assert np.isfinite(wave).all()
    assert np.abs(wave).max() <= 1
    assert np.sqrt(np.mean(wave.astype(float) ** 2)) > 0.03
    power = np.abs(np.fft.rfft(wave)) ** 2
    frequencies_hz = np.fft.rfftfreq(len(wave), 1 / SAMPLE_RATE)
    below = power[frequencies_hz < 0.85 * _hz(video.style.lowest)].sum() / power.sum()
    assert below < 0.03, "there should be nothing but noise below the lowest note"


@pytest.mark.parametrize("instrument", INSTRUMENTS, ids=_by_name)
def test_videos_of_an_instrument_differ_in_timbre(instrument):
    pitch = instrument.ranges[0][0] + 7
    levels_db = []
    for number in range(4):
        voice = dataclasses.replace(_video(instrument.name, number).voice, tuning_cents=0.0)
        rng = np.random.default_rng(0)  # the same noise for both
        wave = synthesize(rng, instrument, voice, [Note(0.0, 1.0, pitch, 0.8)], 1.0)
        spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
        harmonics = np.arange(1, min(10, int(0.4 * SAMPLE_RATE / _hz(pitch))) + 1) * _hz(pitch)
        around = [spectrum[round(0.97 * f) : round(1.03 * f) + 1].max() for f in harmonics]
        levels_db.append(20 * np.log10(np.array(around) / np.linalg.norm(around)))
    assert np.std(levels_db, axis=0).mean() > 0.5


def test_instruments_differ_more_than_their_videos_do():
    """The clarinet has weak even harmonics in its low register, whatever the video; the cello has not."""
    pitch, weak, strong = 52, [], []
    for name, ratios in (("clarinet", weak), ("cello", strong)):
        for number in range(5):
            voice = dataclasses.replace(_video(name, number).voice, tuning_cents=0.0)
            wave = synthesize(np.random.default_rng(0), BY_NAME[name], voice, [Note(0.0, 1.0, pitch, 0.8)], 1.0)
            spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
            one, two, three = (
                spectrum[round(0.97 * k * _hz(pitch)) :][: round(0.06 * k * 165)].max() for k in (1, 2, 3)
            )
            ratios.append(two / np.sqrt(one * three))
    assert max(weak) < 0.6 < min(strong)


def test_notes_that_reach_over_the_ends_of_a_clip_are_cut():
    rng = np.random.default_rng(0)
    notes = [Note(-0.4, 0.8, 60.0, 0.8), Note(0.9, 5.0, 64.0, 0.8), Note(-3.0, 0.5, 60.0, 0.8)]
    wave = synthesize(rng, BY_NAME["cello"], draw_voice(rng), notes, 1.0)
    assert wave.shape == (SAMPLE_RATE,)
    assert np.abs(wave[:500]).max() > 0.1
    assert np.abs(wave[-500:]).max() > 0.1
    assert not wave[round(0.5 * SAMPLE_RATE) : round(0.85 * SAMPLE_RATE)].any()


def test_decaying_partials_are_the_sum_they_stand_for():
    rng = np.random.default_rng(0)
    frequencies, amplitudes = rng.uniform(100, 5000, 5), rng.uniform(0, 1, 5)
    decays, phases = rng.uniform(0.01, 1, 5), rng.random(5)
    t = np.arange(1000)[:, None] / SAMPLE_RATE
    direct = (amplitudes * np.exp(-t / decays) * np.sin(2 * np.pi * (frequencies * t + phases))).sum(1)
    np.testing.assert_allclose(_decaying_partials(frequencies, amplitudes, decays, phases, 1000), direct, atol=1e-9)


def test_a_reverberant_room_rings_longer():
    room = dataclasses.replace(draw_room(np.random.default_rng(0), BY_NAME["violin"]), wet=0.3, hum_hz=0.0, drive=0.0)
    room = dataclasses.replace(room, noise_db=-90.0)
    click = np.zeros(2 * SAMPLE_RATE)
    click[1000] = 1.0
    tails = []
    for reverberation_s in (0.2, 1.5):
        wave = record(np.random.default_rng(0), dataclasses.replace(room, reverberation_s=reverberation_s), click)
        tails.append(np.mean(wave[SAMPLE_RATE:] ** 2) / np.mean(wave**2))
    assert tails[1] > 100 * tails[0]


def test_recordings_have_the_rooms_level_and_noise():
    room = dataclasses.replace(draw_room(np.random.default_rng(0), BY_NAME["violin"]), hum_hz=0.0, drive=0.0)
    room = dataclasses.replace(room, level_db=-20.0, noise_db=-50.0)
    tone = np.sin(2 * np.pi * 700 * np.arange(SAMPLE_RATE) / SAMPLE_RATE)
    once, again = (record(np.random.default_rng(seed), room, tone) for seed in (0, 1))
    assert 20 * np.log10(np.sqrt(np.mean(once.astype(float) ** 2))) == pytest.approx(-20, abs=0.1)
    noise = (once.astype(float) - again) / np.sqrt(2)  # what differs between two takes
    assert 20 * np.log10(np.sqrt(np.mean(noise**2))) == pytest.approx(-50, abs=0.5)
