"""Each saving by itself at full size: the direct form and ours, alternating in one run, and the share of a cycle.

    python -m benchmarks.savings --threads 1         # CPU, batch 2: some minutes
    python -m benchmarks.savings --device cuda --batch 8

Times are the best of several, forward and backward apart; a cycle has three passes of the separator, one of them with
gradients, and three of the critic that learns, one of the frozen critic.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.naive_method import _consistency, _normalised, _upsample
from ialcms import losses
from ialcms.config import AudioConfig, Config, CriticConfig
from ialcms.models.critic import Critic, SpectralNorm
from ialcms.models.instance_scaling import scale_instances
from ialcms.models.norm import BatchNorm2d
from ialcms.models.spectrogram import Spectrogram
from ialcms.models.strided_conv import PADDING, STRIDE, by_product
from ialcms.models.upsampled_conv import UpsampledConv2d

Form = Callable[[], Tensor]


@dataclass
class Case:
    """One saving: the direct form and ours, on the same inputs."""

    name: str
    direct: Form
    ours: Form
    inputs: Sequence[Tensor]  # that get gradients; none: forward only
    forwards: int  # in a cycle
    backwards: int


def cases(batch: int, device: torch.device) -> Iterator[Case]:
    """All savings, for a batch of `batch` mixes on a device."""
    config = Config()
    per_mix = config.clips_per_mix
    count = batch * per_mix
    width, common = config.model.unet.width, config.model.visual.channels
    rows, frames = config.audio.log_bins, config.audio.num_frames

    def tensor(*shape: int, learns: bool = True) -> Tensor:
        return (0.1 * torch.randn(*shape, device=device)).requires_grad_(learns)

    yield _bottom(tensor(count, 8 * width, rows // 32, frames // 32), tensor(count, common), 8 * width)
    for level, (below, outputs) in enumerate([(8, 4), (4, 2), (2, 1)], start=1):
        shape = (rows // 32 * 2**level, frames // 32 * 2**level)
        x, skip = tensor(count, below * width, *shape), tensor(batch, outputs * width, *shape)
        yield _shared(f"decoder block {level}", x, skip, outputs=outputs * width)
    x, skip = tensor(count, width, rows // 2, frames // 2), tensor(batch, width, rows // 2, frames // 2)
    yield _shared("decoder score", x, skip, outputs=1)
    visual = config.model.visual
    cells = config.data.image_crop // 16
    context = tensor(count, visual.channels, cells, cells)
    yield _beside(context, tensor(count, visual.low_level_channels, 2 * cells, 2 * cells))
    for level, outputs in enumerate([8, 4, 2, 1], start=1):
        size = (rows // 32 * 2**level, frames // 32 * 2**level)
        yield _style(f"BatchNorm and AdaIN {level}", tensor(count, outputs * width, *size))
    yield _waves(config.audio, batch, config.data.num_mixtures, objects=config.data.num_objects)
    yield _loss(tensor(count, count))
    critic = Critic(CriticConfig()).to(device).eval()
    yield from _critic(critic, tensor(count, rows, frames), tensor(count, rows, frames, learns=False))
    if device.type == "cpu":
        for inputs, size in ((512, 16), (1024, 8)):
            yield _large_weight(tensor(2 * count, inputs, size, size), tensor(1024, inputs, 4, 4))
    yield _normalisation(SpectralNorm(torch.randn(1024, 1024, 4, 4)).to(device).eval(), tensor(1024, 1024, 4, 4))
    parameters = [tensor(1_000_000) for _ in range(72)]  # as many as both networks learn
    yield _adam(parameters)


def _bottom(sound: Tensor, picture: Tensor, outputs: int) -> Case:
    conv = UpsampledConv2d(sound.shape[1] + picture.shape[1], outputs).to(sound.device)

    def direct() -> Tensor:
        everywhere = picture[:, :, None, None].expand(-1, -1, *sound.shape[-2:])
        return F.conv2d(_upsample(torch.cat([everywhere, sound], 1)), conv.weight, padding=1)

    inputs = [sound, picture, conv.weight]
    return Case(
        "decoder block 0, half constant",
        direct,
        lambda: conv(sound, constant=picture),
        inputs=inputs,
        forwards=3,
        backwards=1,
    )


def _shared(name: str, x: Tensor, skip: Tensor, outputs: int) -> Case:
    """A decoder block: x is of each object, skip of each mix. outputs: channels of the result."""
    conv = UpsampledConv2d(x.shape[1] + skip.shape[1], outputs).to(x.device)

    def direct() -> Tensor:
        repeated = skip.repeat_interleave(len(x) // len(skip), dim=0)
        return F.conv2d(_upsample(torch.cat([repeated, x], 1)), conv.weight, padding=1)

    return Case(name, direct, lambda: conv(x, skip), inputs=[x, skip, conv.weight], forwards=3, backwards=1)


def _beside(context: Tensor, fine: Tensor) -> Case:
    conv = UpsampledConv2d(context.shape[1] + fine.shape[1], context.shape[1], bias=True).to(context.device)

    def direct() -> Tensor:
        return F.conv2d(torch.cat([_upsample(context), fine], 1), conv.weight, conv.bias, padding=1)

    inputs = [context, fine, conv.weight]
    return Case("visual decoder", direct, lambda: conv(context, fine=fine), inputs=inputs, forwards=3, backwards=1)


def _style(name: str, x: Tensor) -> Case:
    norm = BatchNorm2d(x.shape[1]).to(x.device)
    gain, offset = torch.randn(2, *x.shape[:2], device=x.device).unbind(0)
    gain.requires_grad_()
    offset.requires_grad_()

    def direct() -> Tensor:
        return F.instance_norm(norm(x)) * gain[:, :, None, None] + offset[:, :, None, None]

    inputs = [x, norm.weight, gain, offset]
    return Case(
        name, direct, lambda: scale_instances(x, norm, gain, offset=offset), inputs=inputs, forwards=3, backwards=1
    )


def _waves(audio: AudioConfig, batch: int, mixtures: int, objects: int) -> Case:
    """Masks to waves, for `batch` mixes of M `mixtures` and O `objects` each."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    front = Spectrogram(audio).to(device)
    mask = torch.rand(batch, mixtures, objects, audio.log_bins, audio.num_frames, device=device, requires_grad=True)
    spectrum = front.stft(torch.randn(batch, audio.num_samples, device=device))

    def direct() -> Tensor:
        magnitude, phase = spectrum.abs()[:, None, None], spectrum.angle()[:, None, None]
        parts = torch.polar(front.to_linear(mask) * magnitude, phase.expand(-1, mixtures, objects, -1, -1))
        waves = torch.istft(parts.flatten(0, 2), front.n_fft, front.hop, window=front.window, length=audio.num_samples)
        return waves.unflatten(0, mask.shape[:3]).sum(2)

    def ours() -> Tensor:
        return front.istft(front.to_linear(mask.sum(2)) * spectrum[:, None], audio.num_samples)

    return Case("masks and inverse STFT", direct, ours, inputs=[mask], forwards=1, backwards=1)


def _loss(scores: Tensor) -> Case:
    return Case(
        "consistency loss from similarities",
        lambda: _consistency(scores, 0.3, 6),
        lambda: losses.consistency_loss(scores),
        inputs=[scores],
        forwards=1,
        backwards=1,
    )


def _critic(critic: Critic, own: Tensor, partners: Tensor) -> Iterator[Case]:
    index = torch.arange(len(own), device=own.device)
    pairs = torch.cat([torch.stack([index, len(own) + index], 1), torch.stack([index, index ^ 1], 1)])

    def every_pair(x: Tensor) -> Tensor:
        weights = [_normalised(layer) for layer in list(critic.g)[::2]]
        total = x.new_zeros(())
        for side in (0, 1):
            part = torch.cat([x, partners])[pairs[:, side]].unsqueeze(1)
            for weight in weights:
                part = F.leaky_relu(F.conv2d(part, weight, stride=2, padding=1), 0.2)
            total = total + part.mean(dim=(2, 3)).sum()
        return total

    learned = [p for name, p in critic.named_parameters() if name.startswith("g.")]
    detached = own.detach()
    yield Case(
        "critic learning: components once, not pairs",
        lambda: every_pair(detached),
        lambda: critic(detached, pairs, False, partners=partners),
        inputs=learned,
        forwards=3,
        backwards=3,
    )

    def frozen() -> Tensor:
        critic.requires_grad_(False)
        scores: Tensor = critic(own, pairs, False, partners=partners)
        critic.requires_grad_(True)
        return scores

    yield Case(
        "frozen critic: also no gradient of weights and partners",
        lambda: every_pair(own),
        frozen,
        inputs=[own, *learned],
        forwards=1,
        backwards=1,
    )


def _large_weight(x: Tensor, weight: Tensor) -> Case:
    """x: as it lies in the critic."""
    x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    return Case(
        f"convolution as a product, {weight.shape[1]} to {len(weight)} channels",
        lambda: F.conv2d(x, weight, stride=STRIDE, padding=PADDING),
        lambda: by_product(x, weight),
        inputs=[x, weight],
        forwards=3,
        backwards=3,
    )


def _normalisation(norm: SpectralNorm, weight: Tensor) -> Case:
    def direct() -> Tensor:
        sigma = torch.dot(norm.u.clone(), weight.flatten(1) @ norm.v.clone())
        return weight / sigma

    return Case("spectral norm, largest layer", direct, lambda: norm(weight), inputs=[weight], forwards=3, backwards=3)


def _adam(parameters: list[Tensor]) -> Case:
    optimizers = []
    for fused in (None, True):
        copies = [parameter.detach().requires_grad_() for parameter in parameters]
        optimizers.append(torch.optim.Adam(copies, fused=fused))
    for optimizer in optimizers:
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad = torch.randn_like(parameter)

    def step(optimizer: torch.optim.Optimizer) -> Tensor:
        optimizer.step()
        return torch.zeros(())

    direct, ours = ((lambda optimizer=optimizer: step(optimizer)) for optimizer in optimizers)
    return Case("Adam, both networks", direct, ours, inputs=[], forwards=2, backwards=0)


def best(form: Form, inputs: Sequence[Tensor], repeats: int, clock: Callable[[], float]) -> tuple[float, float]:
    """Seconds of the forward and of the backward pass.

    inputs: that get gradients. repeats: of which the fastest counts. clock: seconds, when the device is done.
    """
    forward, backward = [], []
    for _ in range(repeats):
        start = clock()
        result = form()
        middle = clock()
        forward.append(middle - start)
        if inputs:
            torch.autograd.grad(result.sum(), inputs, allow_unused=True)
            backward.append(clock() - middle)
    return min(forward), min(backward, default=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=2, help="mixes")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of a CPU")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time() if options.threads == 1 else time.perf_counter()

    print("| saving | forward, direct -> ours, ms | backward | ms a cycle saved |")
    print("|---|---|---|---|")
    for case in cases(options.batch, device):
        direct, ours = (best(form, case.inputs, options.repeats, clock=clock) for form in (case.direct, case.ours))
        saved = case.forwards * (direct[0] - ours[0]) + case.backwards * (direct[1] - ours[1])
        cells = [
            f"{1e3 * a:.0f} -> {1e3 * b:.0f}" if a >= 0.0095 else f"{1e3 * a:.1f} -> {1e3 * b:.1f}"
            for a, b in zip(direct, ours)
        ]
        print(f"| {case.name} | {cells[0]} | {cells[1] if case.inputs else '-'} | {1e3 * saved:.0f} |", flush=True)


if __name__ == "__main__":
    main()
