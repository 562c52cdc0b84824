"""From a sound of any length and rate to one stem per object, window by window.

The masks come from the network at its own rate; they are laid over the spectrogram of the original sound, whose
windows are as long in seconds, so stems keep its rate and channels. Above the network's highest frequency there is
no mask: each object gets the share that its mask has of the octave below, or nothing.

Masks become stems as `ialcms.evaluation.masking` says, with one source more: the remainder, which is everything that no
object has. Stems and remainder sum to the sound.

Shapes: K objects, P pictures of each, C channels, G windows that pass the network together, W samples of a window at
the original rate, L at the network's; Fq x T the network's linear spectrogram, F' x T' the original one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torchaudio
from torch import Tensor

from ialcms.config import PUBLISHED, Config, ProtocolConfig
from ialcms.evaluation.masking import stem_gains, stem_masks
from ialcms.evaluation.windows import window_starts, window_weights
from ialcms.inference.sound import Block, SoundInfo
from ialcms.media.sound import COMMON_RATE, has_filter
from ialcms.models import Separator, SeparatorOutput

ABOVE = ("share", "remainder")
BEST = ProtocolConfig()
PROTOCOLS = {"best": BEST, "published": PUBLISHED}  # by their names on the command line
_MARGIN_S = 0.05  # around a window, so that the resampling filter does not see its edges
_SHARE_FRAMES = 5  # spectrogram frames over which the share above the network's range is averaged
_ALIKE = 0.8  # cosine of the pooled visual features; chosen by experiment, see docs/separate.md
_MEASURED_WINDOWS = 64  # from which the gains are measured, spread evenly over the sound

Blocks = Callable[[], Iterable[Block]]  # opens the sound at its beginning


@dataclass(frozen=True)
class StemPiece:
    """Consecutive samples; nothing twice, nothing left out."""

    windows_done: int
    stems: Tensor  # (K, C, n)
    original: Block  # (C, n)


@dataclass(frozen=True)
class Localisation:
    """Where the network hears the objects in one window."""

    second: float  # the window's middle
    maps: Tensor  # (K, h, w) in 0..1, of each object's first picture


class StemMaker:
    """Makes the stems of one sound."""

    def __init__(  # noqa: PLR0913 - the options of `separate_file` that stems depend on
        self,
        separator: Separator,
        config: Config,
        pictures: Tensor,
        *,
        info: SoundInfo,
        above: str = "share",
        protocol: ProtocolConfig = BEST,
        batch_windows: int = 16,
    ) -> None:
        """pictures: (K, P, 3, side, side) uint8, on the separator's device. The protocol's number of them is used,
        without those that are not like an object's first one.

        config: the separator's. info: of the sound. above: "share" or "remainder". protocol: how masks become stems.
        batch_windows: how many pass the network together. ValueError for a rate from which no filter of a sensible size
        leads to the network's.
        """
        assert above in ABOVE
        audio, rate = config.audio, info.sample_rate
        if not has_filter(rate, audio.sample_rate):
            raise ValueError(
                f"no filter of a sensible size leads from {rate} to {audio.sample_rate} Hz; resample the sound to "
                f"{COMMON_RATE} Hz first"
            )
        self._separator, self._audio, self._info = separator, audio, info
        self._above, self._protocol, self._group = above, protocol, batch_windows
        pictures = pictures[:, : protocol.pictures]
        self._device, self._objects = pictures.device, (pictures.shape[0], pictures.shape[1])
        with torch.inference_mode():
            self._visual, _ = separator.visual(pictures.flatten(0, 1))
            self._weights = _picture_weights(self._visual.unflatten(0, self._objects))
        self._window = math.ceil(audio.num_samples * rate / audio.sample_rate)
        self._starts = window_starts(info.num_samples, self._window, self._window // 2)
        unit = rate // math.gcd(rate, audio.sample_rate)  # samples that are a whole number at the network's rate, too
        self._margin = math.ceil(_MARGIN_S * rate / unit) * unit
        self._resample = torchaudio.transforms.Resample(rate, audio.sample_rate).to(self._device)
        ratio = rate / audio.sample_rate
        self._n_fft, self._hop = 2 * round(audio.n_fft / 2 * ratio), round(audio.hop * ratio)
        self._stft_window = torch.hann_window(self._n_fft, device=self._device)
        self._fade = window_weights(protocol.join, self._window)
        self.localisation: list[Localisation] = []  # of each window, as far as they are done

    @property
    def num_windows(self) -> int:
        return len(self._starts)

    @torch.inference_mode()
    def __call__(self, blocks: Blocks) -> Iterator[StemPiece]:
        """The stems piece by piece, as they are finished. The sound is read twice: the first time for the levels."""
        gains = self.measure_gains(blocks())
        sound = _Sliding(blocks(), self._info)
        shape = (self._objects[0], self._info.num_channels)
        total, weight = torch.zeros(*shape, 0), torch.zeros(0)  # of samples from `finished` on
        finished = 0
        for first in range(0, len(self._starts), self._group):
            starts = self._starts[first : first + self._group]
            segments = sound.read(self._with_margins(starts))
            end = starts[-1] + self._window
            total = torch.nn.functional.pad(total, (0, end - finished - total.shape[-1]))
            weight = torch.nn.functional.pad(weight, (0, end - finished - len(weight)))
            for start, stems in zip(starts, self._separate(starts, segments.to(self._device), gains)):
                inside = slice(start - finished, start - finished + self._window)
                total[..., inside] += stems.cpu() * self._fade
                weight[inside] += self._fade
            done = first + len(starts)
            until = self._starts[done] if done < len(self._starts) else self._info.num_samples
            count = until - finished
            yield StemPiece(done, total[..., :count] / weight[:count], sound.take(finished, until))
            total, weight, finished = total[..., count:], weight[count:], until
            sound.forget(until - self._margin)

    @torch.inference_mode()
    def measure_gains(self, blocks: Iterable[Block]) -> Tensor:
        """(K,) that bring the masks to the level of the sound (see `stem_gains`), from windows all over it.

        The loss of training is blind to levels, so that masks have none of their own.
        """
        num_objects = self._objects[0]
        between, with_mix = torch.zeros(num_objects, num_objects).double(), torch.zeros(num_objects).double()
        starts = window_starts(self._info.num_samples, self._window, self._window)
        if len(starts) > _MEASURED_WINDOWS:
            starts = [starts[n * len(starts) // _MEASURED_WINDOWS] for n in range(_MEASURED_WINDOWS)]
        sound = _Sliding(blocks, self._info)
        for first in range(0, len(starts), self._group):
            segments = []
            for start in starts[first : first + self._group]:
                sound.forget(start - self._margin)
                segments.append(sound.read(self._with_margins([start])))
            low = self._heard(torch.cat(segments).to(self._device))
            spectrum = self._separator.spectrogram.stft(low)
            masks = self._masks(self._network(spectrum))
            plain = self._separator.spectrogram.istft(masks * spectrum.unsqueeze(1), self._audio.num_samples)
            between += torch.einsum("gkl,gjl->kj", plain, plain).double().cpu()
            with_mix += torch.einsum("gkl,gl->k", plain, low).double().cpu()
        return stem_gains(between, with_mix, self._protocol).float().to(self._device)

    def _with_margins(self, starts: Sequence[int]) -> list[tuple[int, int]]:
        return [(start - self._margin, start + self._window + self._margin) for start in starts]

    def _heard(self, segments: Tensor) -> Tensor:
        """segments (G, C, W + 2 margins) -> (G, L): one channel at the network's rate."""
        low = self._resample(segments.mean(dim=1))
        begin = self._margin * self._audio.sample_rate // self._info.sample_rate
        return low[:, begin : begin + self._audio.num_samples]

    def _network(self, spectrum: Tensor) -> SeparatorOutput:
        visual = self._visual.repeat(len(spectrum), 1, 1, 1)
        return self._separator.separate(spectrum, visual, visual, objects=self._objects)

    def _masks(self, output: SeparatorOutput) -> Tensor:
        """(G, K, Fq, T): the network's masks, mean over each object's pictures."""
        mean = torch.einsum("gkpft,kp->gkft", output.mask, self._weights)
        masks: Tensor = self._separator.spectrogram.to_linear(self._separator.final_masks(mean))
        return masks

    def _separate(self, starts: Sequence[int], segments: Tensor, gains: Tensor) -> Iterator[Tensor]:
        """segments (G, C, W + 2 margins) -> for each window (K, C, W)."""
        spectrum = self._separator.spectrogram.stft(self._heard(segments))
        output = self._network(spectrum)
        for start, maps in zip(starts, output.localisation[:, :, 0].cpu()):
            self.localisation.append(Localisation((start + self._window / 2) / self._info.sample_rate, maps))
        masks = stem_masks(self._masks(output), gains, self._protocol)
        for segment, mask, power in zip(segments, masks, spectrum.abs().square()):
            # one window at a time: spectrograms at the original rate are what takes memory
            yield self._apply(segment[:, self._margin : self._margin + self._window], mask, power)

    def _apply(self, wave: Tensor, mask: Tensor, power: Tensor) -> Tensor:
        """wave (C, W), mask (K, Fq, T), power of the network's spectrogram (Fq, T) -> (K, C, W)."""
        spectrum = torch.stft(
            wave, self._n_fft, self._hop, window=self._stft_window, center=True, pad_mode="reflect", return_complex=True
        )  # (C, F', T')
        full = self._full_mask(mask, power, spectrum.shape[1], num_frames=spectrum.shape[2])
        product = full[:, None] * spectrum
        stems = torch.istft(
            product.flatten(0, 1), self._n_fft, self._hop, window=self._stft_window, center=True, length=self._window
        )
        return stems.unflatten(0, (len(mask), len(wave)))

    def _full_mask(self, mask: Tensor, power: Tensor, num_bins: int, *, num_frames: int) -> Tensor:
        """(K, Fq, T) -> (K, F', T') at the same seconds and hertz, linear in between.

        power: of the network's spectrogram (Fq, T). num_bins, num_frames: F' and T'.
        """
        audio, rate = self._audio, self._info.sample_rate
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
        kept = _smooth((mask[:, half:] * power[half:]).sum(1))
        whole = _smooth(power[half:].sum(0, keepdim=True))
        share = kept / (whole + 1e-12)
        return share / share.sum(0, keepdim=True).clamp(min=1.0)


def _picture_weights(visual: Tensor) -> Tensor:
    """visual (K, P, D, h, w): features of the pictures -> (K, P), which sum to 1 over an object's pictures.

    Pictures that are not like the object's first one do not count: the camera or the object may have moved.
    """
    embedding = torch.nn.functional.normalize(visual.amax(dim=(3, 4)), dim=2)
    alike = (torch.einsum("kpd,kd->kp", embedding, embedding[:, 0]) >= _ALIKE).float()
    alike[:, 0] = 1
    return alike / alike.sum(1, keepdim=True)


def _smooth(values: Tensor) -> Tensor:
    """(n, T): means over neighbouring frames."""
    return torch.nn.functional.avg_pool1d(
        values, _SHARE_FRAMES, stride=1, padding=_SHARE_FRAMES // 2, count_include_pad=False
    )


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
        self._cached = torch.zeros(info.num_channels, 0)
        self._first = 0  # the cached segment's first sample

    def read(self, ranges: Sequence[tuple[int, int]]) -> Tensor:
        """(G, C, n) of ranges of one length; silence before the beginning and after the end."""
        self._fill(ranges[-1][1])
        out = torch.zeros(len(ranges), len(self._cached), ranges[0][1] - ranges[0][0])
        for target, (begin, end) in zip(out, ranges):
            inside = slice(max(begin, 0), min(end, self._end))
            part = self.take(inside.start, inside.stop)
            target[:, inside.start - begin : inside.start - begin + part.shape[1]] = part
        return out

    def take(self, begin: int, end: int) -> Block:
        assert begin >= self._first
        self._fill(end)
        return self._cached[:, begin - self._first : end - self._first]

    def forget(self, before: int) -> None:
        """Drop the samples before this one, also those that are not read yet."""
        while self._cached_until < min(before, self._end):
            self._first, self._cached = self._cached_until, self._next()
        count = min(max(0, before - self._first), self._cached.shape[1])
        self._cached = self._cached[:, count:].clone()
        self._first += count

    def _fill(self, until: int) -> None:
        parts, cached_until = [self._cached], self._cached_until
        while cached_until < min(until, self._end):
            parts.append(self._next())
            cached_until += parts[-1].shape[1]
        self._cached = torch.cat(parts, dim=1) if len(parts) > 1 else self._cached

    @property
    def _cached_until(self) -> int:
        return self._first + self._cached.shape[1]

    def _next(self) -> Block:
        block = next(self._blocks, None)
        if block is None:
            raise ValueError("the sound became shorter while it was read; start again when the file is whole")
        return block
