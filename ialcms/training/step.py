"""One training step: separate, let the critic learn, then the separator against the frozen critic.

The step is the same on any number of ranks, by any engine, up to rounding. With gradient accumulation the global
batch passes the networks in micro-batches, and only the statistics of BatchNorm differ from one pass of all: they are
those of a micro-batch over all ranks, and move once per micro-batch. Pairs, memory bank and the consistency loss are
still those of the whole global batch. For that the separator runs twice where it learns: once for the components, from
which the critic learns first, and once for its own gradients. A random mask of dropout depends on rank and
micro-batch: there, and only there, other ranks mean other numbers.

Shapes: B mixes of this rank, K = M*O components a mix, n = B*K components of this rank and N of all ranks, F x T
log-frequency spectrograms, D channels and H x W cells of the visual feature.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ialcms import losses
from ialcms.config import Config, digest
from ialcms.data.batch import Batch
from ialcms.engine import (
    Health,
    Learner,
    Ranks,
    SkippedSteps,
    Watched,
    build_learner,
    check_agreement,
    to_device,
)
from ialcms.models import Critic, Separator, SeparatorOutput
from ialcms.models.build import build_networks, critic_optimizer, separator_optimizer
from ialcms.models.weights import load_backbone
from ialcms.rng import uniforms
from ialcms.runs.checkpoint import AVERAGE
from ialcms.training.averaging import AveragedSeparator
from ialcms.training.consistency import ConsistencyLoss
from ialcms.training.learning_rates import present_rates, rates_on_device, set_learning_rates
from ialcms.training.memory_bank import MemoryBank, Pairs
from ialcms.training.micro_batches import Components, split, split_batch, split_pairs
from ialcms.training.passes import Passes, choose_forms, recordings
from ialcms.training.schedule import StepSchedule, step_schedule
from ialcms.training.step_values import (
    DrawnPairs,
    Learned,
    LossWeights,
    Means,
    PairScores,
    Scalars,
    SeparatedBatch,
)

# On more ranks partners come from other nodes. Not how many there really are: sums are rounded otherwise where partners
# are waited for late, and so many ranks are to give the same numbers on any nodes.
RANKS_OF_A_NODE = 8


class Experiment:
    """Both networks, their optimizers and the memory bank; `step` makes them one global step older."""

    def __init__(self, config: Config, ranks: Ranks, pretrained: bool = True) -> None:
        self.config, self.ranks = config, ranks
        forms = choose_forms(config, ranks)
        self._recordings = recordings(forms, ranks)
        separator, critic = build_networks(config, pretrained=False)
        if pretrained:  # rank 0 alone reads the file
            backbone = separator.visual.backbone
            backbone.origin = ranks.from_first(lambda: load_backbone(backbone, config.model.visual.weights))
        for network in (separator, critic):
            if network is not None:
                network.to(ranks.device)
                # equal by the seed, up to the rounding of machines of different kinds
                ranks.copy_from_first([*network.parameters(), *network.buffers()])
        self.separator = build_learner(separator, separator_optimizer(separator, config), ranks, config=config)
        self.critic: Learner[Critic] | None = None
        self.bank: MemoryBank | None = None
        if critic is not None:
            self.critic = build_learner(critic, critic_optimizer(critic, config), ranks, config=config)
            audio = config.audio
            self.bank = MemoryBank(
                config.loss.bank_size,
                (audio.log_bins, audio.num_frames),
                num_mixes=config.train.global_batch,
                per_mix=config.clips_per_mix,
                seed=config.seed,
                ranks=ranks,
            )
        self.average: AveragedSeparator | None = None  # from the first update of the separator on
        self.separator.module.train()  # engines have changed its layers
        self._passes = Passes(self.separator, self.critic, forms)
        self.skipped = SkippedSteps(config.train.max_skipped_steps)
        self._agreed = False

    def step(self, batch: Batch) -> Scalars:
        """Train on this rank's part of the global batch of `batch.step`; scalars for the log, without gradients.

        A step in which a network's output or gradient is NaN or infinite on any rank is skipped by all and changes
        nothing from there on. On a GPU the program learns of it when the next step has been issued, so that the GPU
        always has work, or by `settle`: then the step is reported and counted, and the scalars returned here are
        emptied. ValueError when there were too many. ValueError when the ranks' networks differ, which is looked at in
        the first step and every `train.check_every`.
        """
        now = step_schedule(batch.step, self.config)
        critic_optimizer = None if self.critic is None else self.critic.optimizer
        set_learning_rates(self.separator.optimizer, critic_optimizer, now.rate_factor, optim=self.config.optim)
        if not self._agreed or batch.step % self.config.train.check_every == 0:
            self._check_agreement(batch.step)
        scalars: Scalars = {}
        if now.train_critic or now.train_separator:
            learners = [learner for learner in (self.separator, self.critic) if learner is not None]
            if now.ema_decay is not None and self.average is None:  # before an engine changes shapes
                self.average = AveragedSeparator(self.separator.inference_module())
            for learner in learners:
                learner.prepare()
                learner.save_buffers()
            learn = self._learn if self._recordings is None else self._learn_recorded
            learned = learn(batch, now)
            scalars, health = learned.scalars, learned.health
            self.separator.average_running_statistics()
            for learner in learners:
                learner.restore_buffers(where=health.is_bad)
            if now.ema_decay is not None and self.average is not None:
                self.average.update(self.separator.inference_module(), now.ema_decay, skipped=health.is_bad)
            inputs = {"mix": batch.mix, "mixtures": batch.mixtures}
            self.settle()
            self.skipped.watch(Watched(batch.step, health.read(), scalars, inputs=inputs, keys=batch.keys))
            if not self.ranks.reads_late:
                self.settle()
        return scalars

    @property
    def first_steps(self) -> int:
        """How many steps of each kind take longer than those after them."""
        return 1 if self._recordings is None else self._recordings.first_steps + 1

    def settle(self) -> None:
        """Wait until it is known whether the last step was skipped, and report it; all ranks call it together.

        Call it before the log, a checkpoint or the end. ValueError when too many were skipped.
        """
        self.skipped.settle(self.ranks)

    def separator_for_use(self) -> Separator:
        """The separator to validate with: the moving average where one is kept; all ranks ask for it together."""
        return self.separator.inference_module() if self.average is None else self.average.module

    def autocast(self) -> torch.autocast:
        bf16 = self.config.train.precision == "bf16"
        return torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=bf16)

    def state_dict(self) -> dict[str, Any]:
        """Complete on rank 0; all ranks ask for it together, between two steps."""
        self.settle()
        state = {"separator": self.separator.state_dict(), "skipped_steps": self.skipped.count}
        if self.average is not None:
            state[AVERAGE] = self.average.state_dict()
        if self.critic is not None and self.bank is not None:
            state |= {"critic": self.critic.state_dict(), "bank": self.bank.state_dict()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Before the first step; from any engine and any number of ranks."""
        self.separator.load_state_dict(state["separator"])
        self.skipped.count = state["skipped_steps"]
        if self.config.train.ema_decay and AVERAGE in state:
            self.average = AveragedSeparator(self.separator.module)
            self.average.load_state_dict(state[AVERAGE])
        if self.critic is not None and self.bank is not None:
            self.critic.load_state_dict(state["critic"])
            self.bank.load_state_dict(state["bank"])

    def _learn(self, batch: Batch, now: StepSchedule) -> Learned:
        """Let the networks learn from `batch` that learn `now`, the critic first."""
        parts = split_batch(batch, self.config.train.accumulation)
        outputs: list[SeparatorOutput] | None = None
        if len(parts) == 1:
            self._seed(batch.step)
            outputs = [self._separate(batch, now.train_separator)]
            components = Components.of(outputs[0])
        else:
            all_components = []
            for number, part in enumerate(parts):
                self._seed(batch.step, number)
                all_components.append(Components.of(self._separate(part, False)))
            components = Components.joined(all_components)
            if now.train_separator:
                self.separator.restore_buffers()  # the statistics move in the pass from which it learns

        # In this order, so that the comparison hides the exchange of partners, and the critic's update the sum of the
        # comparison's gradients.
        consistency = self._compare(components, now)
        drawn = self._draw_pairs(batch.step, components.magnitude)
        if consistency is not None and self.ranks.world_size > 1:
            consistency.start()
        separated = SeparatedBatch(parts, outputs, components.magnitude, consistency)
        return self._learn_from(separated, drawn, now, weights=LossWeights(now.lambda_ind, now.lambda_avc))

    def _learn_recorded(self, batch: Batch, now: StepSchedule) -> Learned:
        """The same in sections that are recorded: the separation, and all that follows from it and the pairs."""
        assert self._recordings is not None
        learners = [learner for learner in (self.separator, self.critic) if learner is not None]
        optimizers = [learner.optimizer for learner in learners]
        consists = now.lambda_avc > 0
        # Only a lone mix has no partners, and that until the bank has content.
        is_paired = self.bank is not None and (self.config.train.global_batch > 1 or not self.bank.is_empty)
        shapes = batch.mix.shape, batch.mixtures.shape, batch.objects.shape
        step = self._recordings.begin((now.train_separator, now.train_critic, consists, is_paired, shapes))
        outputs: list[SeparatorOutput] = []  # where the sections are called, and not repeated

        def separate(mix: Tensor, objects: Tensor) -> Tensor:
            outputs.append(self._separate(replace(batch, mix=mix, objects=objects), now.train_separator))
            return outputs[0].magnitude.detach()

        def learn(mixtures: Tensor, numbers: Tensor, *of_pairs: Tensor) -> tuple[Tensor, Learned]:
            drawn = DrawnPairs.from_tensors(*of_pairs) if of_pairs else None
            components = Components.of(outputs[0])
            consistency = self._compare(components, now)
            if consistency is not None and self.ranks.world_size > 1:
                consistency.start()
            parts = [replace(batch, mixtures=mixtures)]
            separated = SeparatedBatch(parts, outputs, components.magnitude, consistency)
            with rates_on_device(optimizers, numbers[2:]):
                learned = self._learn_from(separated, drawn, now, weights=LossWeights(numbers[0], numbers[1]))
            return torch.stack(list(learned.scalars.values())), learned

        self._seed(batch.step)
        magnitude = step.run("separate", separate, batch.mix, batch.objects)
        drawn = self._draw_pairs(batch.step, magnitude)
        numbers = to_device(
            torch.tensor([now.lambda_ind, now.lambda_avc, *present_rates(optimizers)]), self.ranks.device
        )
        values, learned = step.run("learn", learn, batch.mixtures, numbers, *(drawn.tensors() if drawn else ()))
        # A copy: the next step of this kind writes to the same place, and the log reads later.
        return replace(learned, scalars=dict(zip(learned.scalars, values.clone().unbind())))

    def _learn_from(
        self, separated: SeparatedBatch, drawn: DrawnPairs | None, now: StepSchedule, *, weights: LossWeights
    ) -> Learned:
        """From what was separated and paired, whoever learns now."""
        health = Health()
        pairs: list[Pairs] | None = None
        if drawn is not None:
            health.watch("a separated component is not finite", drawn.check)
            pairs = split_pairs(drawn.pairs, self.config.clips_per_mix, len(separated.parts))
        scalars: Scalars = {}
        if now.train_critic:
            assert pairs is not None
            scalars |= self._learn_critic(split(separated.magnitude, len(separated.parts)), pairs, health)
        if now.train_separator:
            scalars |= self._learn_separator(separated, pairs, weights, health=health)
        return Learned(scalars, health)

    def _seed(self, step: int, part: int = 0) -> None:
        """Random numbers of the networks (dropout) are a function of step and rank too: none to save or restore."""
        key = (self.config.seed, "torch", step, self.ranks.rank, part)
        torch.manual_seed(int(uniforms(1, *key)[0] * 2**53))

    def _separate(self, batch: Batch, learns: bool) -> SeparatorOutput:
        if not self.separator.module.training:
            self.separator.module.train()
        separate = self._passes.separate_to_learn if learns else self._passes.separate
        with torch.set_grad_enabled(learns), self.autocast():
            output: SeparatorOutput = separate(batch.mix, batch.objects)
        return output

    def _compare(self, components: Components, now: StepSchedule) -> ConsistencyLoss | None:
        """None where it does not count."""
        if not now.train_separator or now.lambda_avc == 0:
            return None
        return ConsistencyLoss(components, self.config, self.ranks)

    def _draw_pairs(self, step: int, magnitude: Tensor) -> DrawnPairs | None:
        """Of the batch, the same on any number of ranks; None without a critic."""
        if self.bank is None:
            return None
        components = self.bank.compact(magnitude.flatten(0, 2))
        check = self.ranks.sum(0 * components.amax().float())  # NaN if one of any rank is
        return DrawnPairs(self.bank.pair(components, step, check), check)

    def _score(self, critic: Callable[..., Any], magnitude: Tensor, pairs: Pairs) -> PairScores:
        """Each distinct component passes g once."""
        # What comes from other nodes takes a while, which the components' own pass can hide.
        waits_late = self.ranks.world_size > RANKS_OF_A_NODE
        partners = (lambda: pairs.partners) if waits_late else pairs.partners
        both = torch.cat([pairs.independent, pairs.dependent])
        with self.autocast():
            scores, weight_penalty = critic(magnitude.flatten(0, 2), both, True, partners)
        independent, dependent = scores.split([len(pairs.independent), len(pairs.dependent)])
        return PairScores(independent, dependent, weight_penalty)

    def _learn_critic(self, magnitudes: list[Tensor], pairs: list[Pairs], health: Health) -> Scalars:
        """One step of the critic; returns the terms of its loss and the norm of its gradient.

        magnitudes: of the components of each micro-batch, (B, M, O, F, T). pairs: of each micro-batch.
        """
        critic = self.critic
        assert critic is not None
        means = Means(len(pairs))
        for part, (magnitude, of_part) in enumerate(zip(magnitudes, pairs)):
            critic.module.train(part == 0)  # one power iteration a step, and the same norms for all micro-batches
            assert self._passes.score_to_learn is not None
            scores = self._score(self._passes.score_to_learn, magnitude, of_part)
            loss = losses.critic_loss(
                scores.independent, scores.dependent, scores.weight_penalty, c=self.config.loss.critic_c
            )
            means.add("loss/critic", loss)
            means.add("critic/independent_score", losses.mean_score(scores.independent))
            means.add("critic/dependent_score", losses.mean_score(scores.dependent))
            critic.backward(loss, health.taint)
        norm = critic.step()
        health.watch("the norm of the gradient of the critic is {}", norm)
        return means.values | {"gradient_norm/critic": norm}

    def _learn_separator(
        self,
        separated: SeparatedBatch,
        pairs: list[Pairs] | None,
        weights: LossWeights,
        *,
        health: Health,
    ) -> Scalars:
        """One step of the separator on the losses of all micro-batches; returns their terms and the gradient's norm.

        pairs: of each micro-batch; None without a critic. weights: of the losses.
        health: watches what decides whether the step is skipped.
        """
        parts, outputs, consistency = separated.parts, separated.outputs, separated.consistency
        means = Means(len(parts))
        for part, batch in enumerate(parts):
            if outputs is None:
                self._seed(batch.step, part)
            output = self._separate(batch, True) if outputs is None else outputs[part]
            waves = self.separator.module.mixture_waves(output, batch.mix.shape[-1])
            total = losses.separation_loss(waves, batch.mixtures, self.config.loss.si_snr_cap_db)
            means.add("loss/separation", total)
            means.add("weighted_loss/separation", total)
            spectral = self.config.loss.spectral_weight
            if spectral:
                loss = losses.spectral_loss(waves, batch.mixtures, self.config.loss.spectral_windows)
                means.add("loss/spectral", loss)
                means.add("weighted_loss/spectral", spectral * loss)
                total = total + spectral * loss
            if pairs is not None:
                independence = self._independence(output, pairs[part])
                means.add("loss/independence", independence)
                means.add("weighted_loss/independence", weights.independence * independence)
                total = total + weights.independence * independence
            means.add("loss/separator", total)
            if consistency is not None:
                means.add("loss/consistency", consistency.loss)
                means.add("weighted_loss/consistency", weights.consistency * consistency.loss)
                means.add("loss/separator", weights.consistency * consistency.loss)
                # a share of the whole batch's loss, not the mean over a micro-batch that `backward` expects
                total = total + weights.consistency * len(parts) * consistency.share(output, part, len(parts))
            self.separator.backward(total, health.taint)
        norm = self.separator.step()
        health.watch("the norm of the gradient of the separator is {}", norm)
        return means.values | {"gradient_norm/separator": norm}

    def _independence(self, output: SeparatorOutput, pairs: Pairs) -> Tensor:
        """Against the critic as it stands, frozen: no gradients for its weights, no power iteration."""
        assert self.critic is not None
        frozen = self.critic.module.eval().requires_grad_(False)
        assert self._passes.score is not None
        scores = self._score(self._passes.score, output.magnitude, pairs)
        frozen.requires_grad_(True)
        return losses.independence_loss(scores.independent, scores.dependent)

    def _check_agreement(self, step: int) -> None:
        tensors = {f"separator.{name}": tensor for name, tensor in self.separator.replicas()}
        if self.average is not None:
            tensors |= {f"average.{name}": tensor for name, tensor in self.average.module.state_dict().items()}
        if self.critic is not None and self.bank is not None:
            tensors |= {f"critic.{name}": tensor for name, tensor in self.critic.replicas()}
            tensors |= {f"bank.{name}": tensor for name, tensor in self.bank.replicas()}
        check_agreement(self.ranks, step, digest(self.config), tensors=tensors.items())
        self._agreed = True
