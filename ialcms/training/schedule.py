"""Loss weights, learning rates, who learns, and when a run validates and shows examples: functions of the step alone.

The global step counts the batches of the whole job from 0, so another number of ranks or a resumed run has the
same weight, and the same networks learn, at the same step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ialcms.config import Config
from ialcms.data.manifest import Manifest
from ialcms.data.selection import select_clips
from ialcms.training.averaging import decay_at
from ialcms.training.learning_rates import rate_factor

_EARLY_EXAMPLES = (8, 4, 2)  # divisors of train.visualise_every


def ramp(step: int, final: float, steps: Sequence[int]) -> float:
    """`final` / 10^n at first, n = len(steps), and ten times more after each of `steps`.

    The step s of the list itself still has the old weight, s + 1 the new one.
    """
    return final * 10.0 ** -sum(step <= s for s in steps)


@dataclass(frozen=True)
class StepSchedule:
    """What happens at a global step."""

    step: int
    train_critic: bool
    train_separator: bool
    lambda_ind: float
    lambda_avc: float
    rate_factor: float  # by which all learning rates are multiplied
    ema_decay: float | None  # of the moving average of the separator's weights; None: it is not kept, or stands still


def step_schedule(step: int, config: Config) -> StepSchedule:
    """Who learns at a step and with which weights. Without a critic every step trains the separator."""
    train, loss = config.train, config.loss
    separator_every = train.separator_every if config.uses_critic else 1
    learns = step % separator_every == 0
    updates = step // separator_every  # of the separator before this step
    return StepSchedule(
        step=step,
        train_critic=config.uses_critic and step % train.critic_every == 0,
        train_separator=learns,
        lambda_ind=ramp(step, loss.lambda_ind, loss.lambda_ind_steps),
        lambda_avc=ramp(step, loss.lambda_avc, loss.lambda_avc_steps),
        rate_factor=rate_factor(step, config.optim),
        ema_decay=decay_at(updates, train.ema_decay) if learns and train.ema_decay else None,
    )


def steps_per_epoch(config: Config, manifest: Manifest) -> int:
    """Steps in which `data.epoch_passes` times as many mixes are drawn as there are training clips."""
    num_clips = len(select_clips(manifest, "train", config.data.instruments))
    return max(1, round(config.data.epoch_passes * num_clips / config.train.global_batch))


def validation_interval(config: Config, manifest: Manifest) -> int:
    """Steps between two validations."""
    return config.train.validate_every or steps_per_epoch(config, manifest)


def shows_examples(step: int, config: Config) -> bool:
    """Whether pictures and sounds are shown after `step` finished steps.

    They are every `train.visualise_every` steps and at the end, and before the first time after an eighth, a quarter
    and half as many: a run that goes wrong shows it early.
    """
    interval = config.train.visualise_every
    if not interval:
        return False
    early = {interval // divisor for divisor in _EARLY_EXAMPLES}
    return step > 0 and (step % interval == 0 or step in early or step == config.train.steps)
