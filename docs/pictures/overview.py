"""The picture on top of the README, from the demo's separated video.

python docs/pictures/overview.py runs/demo/separated/trumpet-tuba docs/pictures/overview.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import av
import matplotlib
import numpy as np
import soundfile
from numpy.typing import NDArray

matplotlib.use("Agg")
from matplotlib import pyplot
from PIL import Image

LEVEL_RANGE_DB = 60.0
AT_S = 4.0  # the frames that are shown
N_FFT, HIGHEST_HZ = 2_048, 5_500


def main(folder: Path, out: Path) -> None:
    names = [Path(name).stem for name in sorted(path.name for path in folder.glob("[0-9]*.wav"))]
    titles = ["mix", *(f"{name.partition('-')[2]}, separated" for name in names)]
    pictures = [_frame(folder / f"{name}.mp4") for name in ("duet", *names)]
    waves = [_wave(folder / "duet.mp4"), *(_wave(folder / f"{name}.wav") for name in names)]
    spectrograms = [_levels_db(wave) for wave, _ in waves]
    highest = max(levels.max() for levels in spectrograms)
    figure, axes = pyplot.subplots(2, len(titles), figsize=(10.5, 4.2), height_ratios=(1, 1.15), layout="constrained")
    for index, title in enumerate(titles):
        rate = waves[index][1]
        axes[0, index].imshow(pictures[index])
        axes[0, index].set_title(title)
        axes[0, index].axis("off")
        shown = axes[1, index].imshow(
            spectrograms[index],
            origin="lower",
            aspect="auto",
            cmap="magma",
            vmin=highest - LEVEL_RANGE_DB,
            vmax=highest,
            extent=(0, len(waves[index][0]) / rate, 0, rate / 2_000),
        )
        axes[1, index].set(ylim=(0, HIGHEST_HZ / 1_000), xlabel="time in s")
    axes[1, 0].set_ylabel("frequency in kHz")
    figure.colorbar(shown, ax=axes[1, :], label="level in dB", pad=0.01)
    figure.savefig(out, dpi=110)
    with Image.open(out) as picture:  # 256 colours: a third of the size
        picture.convert("RGB").quantize().save(out, optimize=True)


def _frame(path: Path) -> NDArray[np.uint8]:
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            if frame.time >= AT_S:
                return frame.to_ndarray(format="rgb24")
    raise SystemExit(f"{path} ends before {AT_S} s")


def _wave(path: Path) -> tuple[NDArray[np.float32], int]:
    """Mono samples and their rate."""
    if path.suffix == ".wav":
        wave, rate = soundfile.read(path, always_2d=True, dtype="float32")
        return wave.mean(axis=1), rate
    with av.open(str(path)) as container:
        resampler = av.AudioResampler(format="fltp", layout="mono")
        parts = [part.to_ndarray()[0] for frame in container.decode(audio=0) for part in resampler.resample(frame)]
        return np.concatenate(parts), container.streams.audio[0].rate


def _levels_db(wave: NDArray[np.float32]) -> NDArray[np.float64]:
    """(frequencies, frames)."""
    frames = np.lib.stride_tricks.sliding_window_view(wave, N_FFT)[:: N_FFT // 4]
    power = np.abs(np.fft.rfft(frames * np.hanning(N_FFT), axis=1)) ** 2
    return 10 * np.log10(np.maximum(power.T, 1e-10))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
