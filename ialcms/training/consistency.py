"""The consistency loss over the objects of all ranks.

Shapes: B mixes of this rank, D channels and H x W cells of the visual feature.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ialcms import losses
from ialcms.config import Config
from ialcms.engine import Ranks
from ialcms.models import SeparatorOutput
from ialcms.training.micro_batches import Components, split


class ConsistencyLoss:
    """The consistency loss over the objects of all ranks and micro-batches, and its gradient at the embeddings.

    Each rank scores its own pictures against all sounds; the rows are gathered. From the gradient each micro-batch
    gets its share when its graph is there.
    """

    def __init__(self, components: Components, config: Config, ranks: Ranks) -> None:
        visual = components.visual.detach().requires_grad_()
        audio = components.audio.detach().requires_grad_()
        sounds = ranks.gather(audio.flatten(0, 2), "features")
        scores = ranks.gather(losses.similarity(visual.flatten(0, 2), sounds), "features")
        loss = losses.consistency_loss(scores, config.loss.temperature, config.loss.excluded_negatives)
        self._visual_gradient, self._audio_gradient = torch.autograd.grad(loss, (visual, audio))
        self.loss = loss.detach()

    def share(self, output: SeparatorOutput, part: int, count: int) -> Tensor:
        """A scalar with the gradient that the loss has at the embeddings of micro-batch `part` of `count`."""
        visual = output.visual_for_loss * split(self._visual_gradient, count)[part]
        return visual.sum() + (output.audio_embedding * split(self._audio_gradient, count)[part]).sum()
