"""A report's content: melodies of decaying notes, drawn pictures, soft heat maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ialcms.report.content import Example, Source, Table

SAMPLE_RATE = 11_025


class Maker:
    def wave(self, seconds: float, seed: int) -> NDArray[np.float32]:
        """A melody of notes that decay; every seed has its own notes and number of harmonics."""
        rng = np.random.default_rng(seed)
        time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
        note = (time / 0.4).astype(int)
        age = time - 0.4 * note
        hz = (110 * 2 ** (rng.integers(0, 24, note[-1] + 1) / 12))[note]
        phase = 2 * np.pi * np.cumsum(hz) / SAMPLE_RATE + 0.03 * np.sin(2 * np.pi * 5 * time)
        tone = np.zeros_like(time)
        for harmonic in range(1, 4 + 5 * (seed % 3)):
            tone += np.sin(harmonic * phase) / harmonic**1.3 * (harmonic * hz < SAMPLE_RATE / 2)
        noise = 2e-3 * rng.standard_normal(time.size)
        return (0.25 * tone * np.minimum(age / 0.02, 1) * np.exp(-3 * age) + noise).astype(np.float32)

    def picture(self, seed: int, height: int = 224, width: int = 224) -> NDArray[np.uint8]:
        """A disc on a gradient."""
        y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
        top, bottom, light = np.random.default_rng(seed).integers(30, 230, (3, 3))
        ground = top + (bottom - top) * (0.6 * y + 0.4 * x)[..., None]
        disc = np.hypot(x - 0.5, y - 0.5) < 0.25
        return np.where(disc[..., None], light, ground).astype(np.uint8)

    def source(self, instrument: str = "violin", *, seconds: float = 0.5, seed: int = 0, **changes: Any) -> Source:
        y, x = np.mgrid[0:1:14j, 0:1:14j]
        reference = self.wave(seconds, seed)
        values: dict[str, Any] = {
            "instrument": instrument,
            "clip": f"video_{seed:02d}_3",
            "picture": self.picture(seed),
            "localisations": {"": 0.2 + 0.7 * np.exp(-8 * ((x - 0.5) ** 2 + (y - 0.5) ** 2))},
            "reference": reference,
            "estimates": {"Estimate": 0.9 * reference},
            "scores": {"SDR": 10.25 - seed, "SIR": 17.13, "SAR": 12.8, "SDRi": 9.04 - seed, "SIRi": -1.52},
        }
        return Source(**(values | changes))

    def example(
        self, *instruments: str, title: str = "", why: str = "random", seconds: float = 0.5, seed: int = 0
    ) -> Example:
        instruments = instruments or ("violin", "flute")
        waves = [self.wave(seconds, seed + n) for n in range(len(instruments))]
        mix = np.sum(waves, axis=0)
        sources = tuple(
            self.source(name, seconds=seconds, seed=seed + n, estimates={"Estimate": 0.9 * wave + 0.1 * (mix - wave)})
            for n, (name, wave) in enumerate(zip(instruments, waves))
        )
        gain = sum(source.scores["SDRi"] for source in sources) / len(sources)
        return Example(title or " + ".join(instruments), why, mix, sources, gain=gain)

    def table(self) -> Table:
        rows = (("erhu", 110, None), ("violin", 50, 10.25), ("flute", 9, -1.5), ("Cello", 8, 12.0))
        return Table("Per instrument", ("Instrument", "Mixes", "SDR"), rows, "Means in dB.", "SDR")


@pytest.fixture(scope="session")
def make() -> Maker:
    return Maker()
