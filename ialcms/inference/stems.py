"""From a sound of any length and rate to one stem per object, window by window.

The masks come from the network at its own rate; they are laid over the spectrogram of the original sound, whose
windows are as long in seconds, so stems keep its rate and channels. Above the network's highest frequency there is
no mask: each object gets the share that its mask has of the octave below, or nothing.

Shapes: K objects, C channels, G windows that pass the network together, W samples of a window at the original rate,
L at the network's; Fq x T the network's linear spectrogram, F' x T' the original one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ialcms.config import Config
from ialcms.evaluation.windows import window_starts
from ialcms.inference.resample import Resample
from ialcms.inference.sound import Block, SoundInfo
from ialcms.models import Separator

ABOVE = ("share", "remainder")
_MARGIN_S = 0.05  # around a window, so that the resampling filter does not see its edges
_SHARE_FRAMES = 5  # spectrogram frames over which the share above the network's range is averaged
_FADE_FLOOR = 1e-3  # weight at a window's very ends; the sum of weights divides it out


class StemMaker:
    """Makes the stems of one sound; call it once with the sound's blocks."""

    def __init__(
        self, separator: Separator, config: Config, pictures: Tensor, info: SoundInfo, above: str = "share"
    ) -> None:
        """pictures: (K, 3, side, side) uint8, on the separator's device. above: "share" or "remainder"."""
        assert above in ABOVE
        audio = config.audio
        self._separator, self._config, self._info, self._above = separator, config, info, above
        self._device, self._num_objects = pictures.device, len(pictures)
        with torch.inference_mode():
            self._visual, _ = separator.visual(pictures)
        rate = info.sample_rate
        self._window = math.ceil(audio.num_samples * rate / audio.sample_rate)
        self._starts = window_starts(info.num_samples, self._window, self._window // 2)
        unit = rate // math.gcd(rate, audio.sample_rate)  # samples that are a whole number at the network's rate, too
        self._margin = math.ceil(_MARGIN_S * rate / unit) * unit
        self._resample = Resample(rate, audio.sample_rate, self._device)
        ratio = rate / audio.sample_rate
        self._n_fft, self._hop = 2 * round(audio.n_fft / 2 * ratio), round(audio.hop * ratio)
        self._stft_window = torch.hann_window(self._n_fft, device=self._device)
        position = torch.arange(self._window, dtype=torch.float32, device=self._device)
        self._fade = torch.sin(math.pi * (position + 0.5) / self._window).square().clamp(min=_FADE_FLOOR)
        self.localisation: list[tuple[float, Tensor]] = []  # (second, (K, h, w) in 0..1) of each window

    @property
    def num_windows(self) -> int:
        return len(self._starts)

    @torch.inference_mode()
    def __call__(self, blocks: Iterable[Block]) -> Iterator[tuple[int, Tensor, Block]]:
        """(windows done, (K, C, n) stems, (C, n) original) of consecutive pieces; nothing twice, nothing left out."""
        sound = _Sliding(blocks, self._info)
        shape = (self._num_objects, self._info.num_channels)
        total, weight = torch.zeros(*shape, 0), torch.zeros(0)  # of samples from `finished` on
        finished, group = 0, self._config.eval.batch_windows
        for first in range(0, len(self._starts), group):
            starts = self._starts[first : first + group]
            segments = sound.read([(s - self._margin, s + self._window + self._margin) for s in starts])
            end = starts[-1] + self._window
            total = torch.nn.functional.pad(total, (0, end - finished - total.shape[-1]))
            weight = torch.nn.functional.pad(weight, (0, end - finished - len(weight)))
            for start, stems in zip(starts, self._separate(starts, segments.to(self._device))):
                place = slice(start - finished, start - finished + self._window)
                total[..., place] += (stems * self._fade).cpu()
                weight[place] += self._fade.cpu()
            done = first + len(starts)
            until = self._starts[done] if done < len(self._starts) else self._info.num_samples
            count = until - finished
            original = sound.take(finished, until)
            yield done, total[..., :count] / weight[:count], original
            total, weight, finished = total[..., count:], weight[count:], until
            sound.forget(until - self._margin)

    def _separate(self, starts: list[int], segments: Tensor) -> Iterator[Tensor]:
        """segments (G, C, W + 2 margins) -> for each window (K, C, W)."""
        config = self._config
        low = self._resample(segments.mean(dim=1))  # the network hears one channel
        begin = self._margin * config.audio.sample_rate // self._info.sample_rate
        low = low[:, begin : begin + config.audio.num_samples]
        spectrum = self._separator.spectrogram.stft(low)
        visual = self._visual.repeat(len(segments), 1, 1, 1)
        output = self._separator.separate(spectrum, visual, visual, (self._num_objects, 1))
        maps = output.localisation.squeeze(2).cpu()
        for start, found in zip(starts, maps):
            self.localisation.append(((start + self._window / 2) / self._info.sample_rate, found))
        for segment, mask, power in zip(segments, output.mask.squeeze(2), spectrum.abs().square()):
            # one window at a time: spectrograms at the original rate are what takes memory
            wave = segment[:, self._margin : self._margin + self._window]
            yield self._apply(wave, self._separator.spectrogram.to_linear(mask), power)

    def _apply(self, wave: Tensor, mask: Tensor, power: Tensor) -> Tensor:
        """wave (C, W), mask (K, Fq, T), power of the network's spectrogram (Fq, T) -> (K, C, W)."""
        spectrum = torch.stft(
            wave, self._n_fft, self._hop, window=self._stft_window, center=True, pad_mode="reflect", return_complex=True
        )  # (C, F', T')
        full = self._full_mask(mask, power, spectrum.shape[1], spectrum.shape[2])
        product = full[:, None] * spectrum
        stems = torch.istft(
            product.flatten(0, 1), self._n_fft, self._hop, window=self._stft_window, center=True, length=self._window
        )
        return stems.unflatten(0, (len(mask), len(wave)))

    def _full_mask(self, mask: Tensor, power: Tensor, num_bins: int, num_frames: int) -> Tensor:
        """(K, Fq, T) -> (K, F', T'): at the same seconds and hertz, linear in between."""
        audio, rate = self._config.audio, self._info.sample_rate
        frames = torch.arange(num_frames, device=mask.device) * (self._hop / rate * audio.sample_rate / audio.hop)
        bins = torch.arange(num_bins, device=mask.device) * (rate / self._n_fft * audio.n_fft / audio.sample_rate)
        share = self._share(mask, power)
        full = _interpolate(_interpolate(mask, bins).transpose(1, 2), frames).transpose(1, 2)
        above = bins > mask.shape[1] - 1
        if bool(above.any()):
            full[:, above] = _interpolate(share, frames).unsqueeze(1)
        return full

    def _share(self, mask: Tensor, power: Tensor) -> Tensor:
        """(K, T): what each object has above the network's range: its part of the octave below, at most 1 together."""
        if self._above == "remainder":
            return mask.new_zeros(mask.shape[0], mask.shape[2])
        half = mask.shape[1] // 2
        kept, whole = (mask[:, half:] * power[half:]).sum(1), power[half:].sum(0, keepdim=True)
        kept, whole = (
            torch.nn.functional.avg_pool1d(x, _SHARE_FRAMES, 1, _SHARE_FRAMES // 2, count_include_pad=False)
            for x in (kept, whole)
        )
        share = kept / (whole + 1e-12)
        return share / share.sum(0, keepdim=True).clamp(min=1.0)


def _interpolate(values: Tensor, positions: Tensor) -> Tensor:
    """Along axis 1, constant behind the last value: (K, n, ...) at positions (m,) -> (K, m, ...)."""
    last = values.shape[1] - 1
    positions = positions.clamp(0, last)
    lower = positions.floor().long().clamp(max=max(last - 1, 0))
    weight = (positions - lower).view(1, -1, *[1] * (values.dim() - 2)).to(values.dtype)
    return torch.lerp(values[:, lower], values[:, (lower + 1).clamp(max=last)], weight)


class _Sliding:
    """A segment of the sound in memory that moves forward."""

    def __init__(self, blocks: Iterable[Block], info: SoundInfo) -> None:
        self._blocks, self._end = iter(blocks), info.num_samples
        self._held = torch.zeros(info.num_channels, 0)
        self._first = 0  # the held segment's first sample

    def read(self, ranges: list[tuple[int, int]]) -> Tensor:
        """(G, C, n) of ranges of one length; silence before the beginning and after the end."""
        self._fill(ranges[-1][1])
        out = torch.zeros(len(ranges), len(self._held), ranges[0][1] - ranges[0][0])
        for target, (begin, end) in zip(out, ranges):
            inside = slice(max(begin, 0), min(end, self._end))
            part = self.take(inside.start, inside.stop)
            target[:, inside.start - begin : inside.start - begin + part.shape[1]] = part
        return out

    def take(self, begin: int, end: int) -> Block:
        assert begin >= self._first
        self._fill(end)
        return self._held[:, begin - self._first : end - self._first]

    def forget(self, before: int) -> None:
        count = max(0, before - self._first)
        self._held = self._held[:, count:].clone()
        self._first += count

    def _fill(self, until: int) -> None:
        parts = [self._held]
        held_until = self._first + self._held.shape[1]
        while held_until < min(until, self._end):
            block = next(self._blocks, None)
            if block is None:
                raise ValueError("the sound became shorter while it was read; start again when the file is whole")
            parts.append(block)
            held_until += block.shape[1]
        self._held = torch.cat(parts, dim=1) if len(parts) > 1 else self._held
