"""The networks: tensors to tensors, no knowledge of ranks or files.

Shape letters: B batch, M mixtures per mix, O objects per mixture, K = M*O objects (so components, sources, clips) of a
mix, N = B*K components of a batch, L samples, Fq linear and
F log-frequency bins, T frames, D channels of the common audio-visual space, H x W cells of the visual feature.
"""

from ialcms.models.critic import Critic
from ialcms.models.separator import Separator, SeparatorOutput

__all__ = ["Critic", "Separator", "SeparatorOutput"]
