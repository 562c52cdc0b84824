"""The method written down straightforwardly, with no saving: what benchmarks/cycle.py compares with.

The same networks (it uses our modules' parameters), losses, pairs and step schedule, in the plainest way:
each phase separates the mix anew; the decoder upsamples and convolves what it was given, repeated for each object;
normalisations one after the other; every pair passes the critic's g; the frozen critic's weights get gradients, which
are thrown away; masks are applied to magnitude and phase, and each component has its own inverse STFT; the visual
net's last layers run twice; similarities are products and sums; plain Adam.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ialcms import losses
from ialcms.config import Config
from ialcms.data.batch import Batch
from ialcms.models import Critic, Separator
from ialcms.training.memory_bank import MemoryBank, Pairs
from ialcms.training.schedule import StepSchedule, step_schedule


@dataclass(frozen=True)
class _Separated:
    magnitude: Tensor  # of the components, (B, M, O, F, T)
    waves: Tensor  # (B, M, O, L)
    visual: Tensor  # (N, D, H, W)
    audio: Tensor  # (N, D)


class NaiveExperiment:
    """Both networks, their optimizers and the bank, as copies; `step` makes them one global step older."""

    def __init__(self, config: Config, separator: Separator, critic: Critic, bank: MemoryBank) -> None:
        """separator, critic, bank: where it starts; they are copied."""
        self.config = config
        self.separator, self.critic, self.bank = copy.deepcopy(separator), copy.deepcopy(critic), copy.deepcopy(bank)
        self.bank.load_state_dict(bank.state_dict())
        for network in (self.separator, self.critic):
            network.train()
        optim = config.optim
        in_visual = {id(p) for p in self.separator.visual.parameters()}
        trained = [p for p in self.separator.parameters() if p.requires_grad]
        self.separator_optimizer = torch.optim.Adam(
            [
                {"params": [p for p in trained if id(p) not in in_visual], "lr": optim.lr_audio},
                {"params": [p for p in trained if id(p) in in_visual], "lr": optim.lr_visual},
            ],
            betas=optim.betas,
        )
        self.critic_optimizer = torch.optim.Adam(
            self.critic.parameters(),
            lr=optim.lr_critic,
            betas=optim.critic_betas,
            weight_decay=optim.critic_weight_decay,
        )

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Losses by name."""
        now = step_schedule(batch.step, self.config)
        scalars: dict[str, Tensor] = {}
        pairs: Pairs | None = None
        if now.train_critic:
            with torch.no_grad(), self._autocast():
                magnitude = self._separate(batch).magnitude
            pairs = self._draw(magnitude, batch.step)
            with self._autocast():
                independent, dependent = self._scores(magnitude.flatten(0, 2), pairs)
            penalty = self.critic.weight_penalty()
            loss = losses.critic_loss(independent, dependent, penalty, c=self.config.loss.critic_c)
            loss.backward()
            self.critic_optimizer.step()
            self.critic_optimizer.zero_grad()
            scalars["loss/critic"] = loss.detach()
        if now.train_separator:
            scalars |= self._learn_separator(batch, pairs, now)
        return scalars

    def _autocast(self) -> torch.autocast:
        device = next(self.separator.parameters()).device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.config.train.precision == "bf16")

    def _draw(self, magnitude: Tensor, step: int) -> Pairs:
        components = self.bank.compact(magnitude.flatten(0, 2))
        return self.bank.pair(components, step, check=components.amax().float())

    def _learn_separator(self, batch: Batch, pairs: Pairs | None, now: StepSchedule) -> dict[str, Tensor]:
        settings = self.config.loss
        with self._autocast():
            separated = self._separate(batch)
        magnitude = separated.magnitude
        if pairs is None:
            pairs = self._draw(magnitude, batch.step)
        self.critic.eval()
        with self._autocast():
            independent, dependent = self._scores(magnitude.flatten(0, 2), pairs)
        self.critic.train()
        separation = losses.separation_loss(separated.waves.sum(2), batch.mixtures, settings.si_snr_cap_db)
        independence = losses.independence_loss(independent, dependent)
        scores = torch.stack([_similarities(picture, separated.audio) for picture in separated.visual])
        consistency = _consistency(scores, settings.temperature, settings.excluded_negatives)
        total = separation + now.lambda_ind * independence + now.lambda_avc * consistency
        total.backward()
        self.separator_optimizer.step()
        self.separator_optimizer.zero_grad()
        self.critic_optimizer.zero_grad()  # its gradients of this phase are of no use
        return {
            "loss/separation": separation.detach(),
            "loss/independence": independence.detach(),
            "loss/consistency": consistency.detach(),
        }

    def _separate(self, batch: Batch) -> _Separated:
        separator, front = self.separator, self.separator.spectrogram
        objects = batch.objects
        shape = objects.shape[:3]
        per_mix = shape[1] * shape[2]
        spectrum = front.stft(batch.mix)
        visual, visual_for_loss = self._visual(objects.flatten(0, 2))
        mix_magnitude = front.to_log(spectrum.abs()).unsqueeze(1)
        features = separator.encoder(separator.input_norm(torch.log(mix_magnitude + 1e-8).detach()))
        repeated = [feature.repeat_interleave(per_mix, dim=0) for feature in features]
        fused = separator.audio_visual(repeated[-1], visual)
        picture = fused.attended_visual[:, :, None, None].expand(-1, -1, *fused.attended_audio.shape[-2:])
        x = torch.cat([picture, fused.attended_audio], dim=1)
        for number, block in enumerate(separator.decoder.blocks):
            if number:
                x = torch.cat([repeated[-1 - number].to(x.dtype), x], dim=1)
            x = block.activation(F.conv2d(_upsample(x), block.conv.weight, padding=1))
            gain, offset = block.style.gain(fused.context), block.style.offset(fused.context)
            x = F.instance_norm(block.norm(x)) * gain[:, :, None, None] + offset[:, :, None, None]
        score = separator.decoder.score
        x = torch.cat([repeated[0].to(x.dtype), x], dim=1)
        x = F.conv2d(_upsample(x), score.weight, score.bias, padding=1).float()
        mask = torch.relu(x * separator.mask_scale + separator.mask_bias + 0.5).unflatten(0, shape).squeeze(3)
        magnitude, phase = spectrum.abs()[:, None, None], spectrum.angle()[:, None, None]
        parts = torch.polar(front.to_linear(mask) * magnitude, phase.expand(*shape, -1, -1)).flatten(0, 2)
        waves = torch.istft(parts, front.n_fft, front.hop, window=front.window, length=batch.mix.shape[-1])
        return _Separated(
            magnitude=mask * mix_magnitude[:, :, None],
            waves=waves.unflatten(0, shape),
            visual=visual_for_loss,
            audio=fused.audio_embedding,
        )

    def _visual(self, image: Tensor) -> tuple[Tensor, Tensor]:
        net = self.separator.visual
        with torch.no_grad():
            low_level, last = net.backbone(image)
        context = F.interpolate(net.aspp(last), size=low_level.shape[-2:], mode="bilinear", align_corners=True)
        conv, *others = net.decoder
        feature = torch.cat([context, net.reduce(low_level)], dim=1)
        feature = F.conv2d(feature, conv.weight, conv.bias, padding=1)
        for layer in others:
            feature = layer(feature)
        first = F.normalize(net.common_space(feature).float(), dim=1)
        return first, F.normalize(net.common_space(net.dropout(feature)).float(), dim=1)

    def _scores(self, own: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Of the independent and of the dependent pairs; each pair passes the critic as it is."""
        critic = self.critic
        weights = [_normalised(layer) for layer in [*critic.g[::2], *critic.h[::2]]]
        of_g, of_h = weights[: len(critic.g[::2])], weights[len(critic.g[::2]) :]
        every = torch.cat([own.detach() if critic.training else own, pairs.partners])
        index = torch.cat([pairs.independent, pairs.dependent])
        embedded = []
        for side in (0, 1):
            x = every[index[:, side]].unsqueeze(1)
            for weight in of_g:
                x = F.leaky_relu(F.conv2d(x, weight, stride=2, padding=1), 0.2)
            embedded.append(x.mean(dim=(2, 3)))
        x = torch.cat(embedded, dim=1)
        for weight, layer in zip(of_h, critic.h[::2]):
            x = F.leaky_relu(F.linear(x, weight, layer.bias), 0.2)
        scores = (critic.w(x) + critic.b).squeeze(1).float()
        independent, dependent = scores.split([len(pairs.independent), len(pairs.dependent)])
        return independent, dependent


def _upsample(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


def _normalised(layer: nn.Module) -> Tensor:
    """The layer's weight by its spectral norm, after a power iteration while training."""
    norm, weight = layer.parametrizations.weight[0], layer.parametrizations.weight.original
    with torch.autocast(weight.device.type, enabled=False):
        matrix = weight.flatten(1)
        if norm.training:
            with torch.no_grad():
                norm.v.copy_(F.normalize(matrix.T @ norm.u, dim=0))
                norm.u.copy_(F.normalize(matrix @ norm.v, dim=0))
        sigma = torch.dot(norm.u.clone(), matrix @ norm.v.clone())
        return weight / sigma


def _similarities(picture: Tensor, audio: Tensor) -> Tensor:
    """picture (D, H, W), audio (N, D) -> (N,), the best cell of the picture for each sound."""
    return (picture * audio[:, :, None, None]).sum(1).flatten(1).max(1).values


def _consistency(scores: Tensor, temperature: float, excluded: int) -> Tensor:
    terms = []
    others = ~torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    for table in (scores, scores.T):
        negatives = table[others].view(len(table), -1).sort(dim=1).values
        kept = negatives[:, : max(0, len(table) - 1 - excluded)]
        logits = torch.cat([table.diagonal().unsqueeze(1), kept], dim=1) / temperature
        terms.append(F.cross_entropy(logits, torch.zeros(len(table), dtype=torch.long, device=scores.device)))
    return 0.5 * (terms[0] + terms[1])
