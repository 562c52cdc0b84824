"""One training step: separate once, let the critic learn, then the separator against the frozen critic.

Shapes: B mixes of this worker, N = B*M*O components, F x T log-frequency spectrograms.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ialcms import losses
from ialcms.config import Config
from ialcms.data.batches import Batch, normalise_objects
from ialcms.engine import Learner, Workers
from ialcms.models import SeparatorOutput
from ialcms.models.build import build_networks, critic_optimizer, separator_optimizer
from ialcms.pairs import MemoryBank, Pairs
from ialcms.rng import keyed_generator
from ialcms.schedule import turn


class Experiment:
    """Both networks, their optimizers and the memory bank; `step` makes them one global step older."""

    def __init__(self, config: Config, workers: Workers, pretrained: bool = True) -> None:
        self.config, self.workers = config, workers
        separator, critic = build_networks(config, pretrained)
        options = {"sync_batchnorm": config.train.sync_batchnorm, "clip_norm": config.optim.clip_norm}
        separator.to(workers.device)
        self.separator = Learner(separator, separator_optimizer(separator, config), workers, **options)
        self.critic: Learner | None = None
        self.bank: MemoryBank | None = None
        if critic is not None:
            critic.to(workers.device)
            self.critic = Learner(critic, critic_optimizer(critic, config), workers, **options)
            audio = config.audio
            self.bank = MemoryBank(config.loss.bank_size, audio.log_bins, audio.num_frames).to(workers.device)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Train on this worker's part of the global batch of `batch.step`; scalars for the log, without gradients."""
        config, now = self.config, turn(batch.step, self.config)
        scalars: dict[str, Tensor] = {}
        if not (now.critic or now.separator):
            return scalars
        # Random numbers of the networks (dropout) are a function of step and worker too: none to save or restore.
        torch.manual_seed(int(keyed_generator(config.seed, "torch", batch.step, self.workers.rank).integers(2**62)))
        self.separator.module.train()
        # Where only the critic learns, the plain module runs: no graph, and no gradient reduction waits for a backward.
        separate = self.separator if now.separator else self.separator.module
        with torch.set_grad_enabled(now.separator), self.autocast():
            output: SeparatorOutput = separate(batch.mix, normalise_objects(batch.objects))

        pairs = self._draw_pairs(batch.step, output) if config.uses_critic else None
        if now.critic:
            assert pairs is not None
            scalars |= self._learn_critic(output, pairs)
        if now.separator:
            scalars |= self._learn_separator(batch, output, pairs, now.lambda_ind, now.lambda_avc)
        return scalars

    def autocast(self) -> torch.autocast:
        bf16 = self.config.train.precision == "bf16"
        return torch.autocast(self.workers.device.type, torch.bfloat16, enabled=bf16)

    def state_dict(self) -> dict[str, object]:
        state: dict[str, object] = {"separator": self.separator.state_dict()}
        if self.critic is not None and self.bank is not None:
            state |= {"critic": self.critic.state_dict(), "bank": self.bank.state_dict()}
        return state

    def load_state_dict(self, state: dict[str, dict]) -> None:
        self.separator.load_state_dict(state["separator"])
        if self.critic is not None and self.bank is not None:
            self.critic.load_state_dict(state["critic"])
            self.bank.load_state_dict(state["bank"])

    def _draw_pairs(self, step: int, output: SeparatorOutput) -> Pairs:
        assert self.bank is not None
        own = output.magnitude.detach().flatten(0, 2)
        per_mix = self.config.clips_per_mix
        return self.bank.pair(
            self.workers.gather(own), per_mix, self.workers.rank * len(own), len(own), self.config.seed, step
        )

    def _score(self, critic: object, magnitudes: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Scores of the independent and of the dependent pairs, each distinct component passing g once."""
        assert callable(critic)
        with self.autocast():
            scores = critic(
                torch.cat([magnitudes.flatten(0, 2), pairs.partners]), torch.cat([pairs.independent, pairs.dependent])
            )
        independent, dependent = scores.split([len(pairs.independent), len(pairs.dependent)])
        return independent, dependent

    def _learn_critic(self, output: SeparatorOutput, pairs: Pairs) -> dict[str, Tensor]:
        assert self.critic is not None
        self.critic.module.train()
        independent, dependent = self._score(self.critic, output.magnitude.detach(), pairs)
        loss = losses.critic_loss(
            independent, dependent, self.critic.module.weight_penalty(), self.config.loss.critic_c
        )
        norm = self.critic.update(loss)
        return {
            "loss/critic": loss.detach(),
            "critic/independent_score": losses.mean_score(independent.detach()),
            "critic/dependent_score": losses.mean_score(dependent.detach()),
            "gradient_norm/critic": norm,
        }

    def _learn_separator(
        self, batch: Batch, output: SeparatorOutput, pairs: Pairs | None, lambda_ind: float, lambda_avc: float
    ) -> dict[str, Tensor]:
        loss_config = self.config.loss
        waves = self.separator.module.mixture_waves(output, batch.mix.shape[-1])
        separation = losses.separation_loss(waves, batch.mixtures, loss_config.si_snr_cap_db)
        scalars = {"loss/separation": separation.detach()}
        total = separation
        if lambda_avc > 0:
            consistency = self._consistency(output)
            total = total + lambda_avc * consistency
            scalars |= {
                "loss/consistency": consistency.detach(),
                "weighted_loss/consistency": lambda_avc * consistency.detach(),
            }
        if pairs is not None:
            independence = self._independence(output, pairs)
            total = total + lambda_ind * independence
            scalars |= {
                "loss/independence": independence.detach(),
                "weighted_loss/independence": lambda_ind * independence.detach(),
            }
        scalars["loss/separator"] = total.detach()
        scalars["gradient_norm/separator"] = self.separator.update(total)
        return scalars

    def _consistency(self, output: SeparatorOutput) -> Tensor:
        """Over the objects of all workers: each scores its own pictures against all sounds, the rows are gathered."""
        visual = output.visual_for_loss.flatten(0, 2)
        audio = self.workers.gather(output.audio_embedding.flatten(0, 2))
        scores = self.workers.gather(losses.similarity(visual, audio))
        loss = self.config.loss
        return losses.consistency_loss(scores, loss.temperature, loss.excluded_negatives)

    def _independence(self, output: SeparatorOutput, pairs: Pairs) -> Tensor:
        """Against the critic as it stands, frozen: no gradients for its weights, no power iteration."""
        assert self.critic is not None
        frozen = self.critic.module.eval().requires_grad_(False)
        independent, dependent = self._score(frozen, output.magnitude, pairs)
        frozen.requires_grad_(True)
        return losses.independence_loss(independent, dependent)
