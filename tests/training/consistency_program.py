"""What each rank of test_consistency.py runs: `torchrun consistency_program.py FOLDER`, results in FOLDER/<rank>.pt."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ialcms.config import Config
from ialcms.engine import Ranks
from ialcms.training.consistency import ConsistencyLoss
from ialcms.training.micro_batches import Components
from tests.support import small_config

WORLD_SIZES = (1, 2, 4)
CHANNELS = 64
# name: mixes of the global batch, excluded negatives, mixes that are copies of others, precision
CASES = {
    "fewer objects than are excluded": (4, 40, 0, "float32"),
    "each rank has fewer objects than are excluded": (4, 6, 0, "float32"),
    "usual": (24, 6, 0, "float32"),
    "nothing is excluded": (8, 0, 0, "float32"),
    "equal scores": (12, 3, 4, "float32"),
    "bf16": (24, 6, 0, "bf16"),
}


def config_of(name: str) -> Config:
    mixes, excluded, _, precision = CASES[name]
    return small_config(train={"global_batch": mixes, "precision": precision}, loss={"excluded_negatives": excluded})


def components_of(name: str) -> Components:
    """Of the global batch, the same on every rank; in double precision."""
    config = config_of(name)
    mixes, _, copies, _ = CASES[name]
    per_mix = (mixes, config.data.num_mixtures, config.data.num_objects)
    generator = torch.Generator().manual_seed(1)
    visual = torch.randn(*per_mix, CHANNELS, 3, 4, generator=generator, dtype=torch.float64)
    audio = torch.randn(*per_mix, CHANNELS, generator=generator, dtype=torch.float64)
    for copy in range(copies):
        visual[-1 - copy], audio[-1 - copy] = visual[copy], audio[copy]
    return Components(torch.zeros(per_mix), F.normalize(visual, dim=3), F.normalize(audio, dim=3))


def results(name: str, ranks: Ranks) -> dict[str, Any]:
    components = components_of(name)
    share = len(components.audio) // ranks.world_size
    rows = slice(ranks.rank * share, (ranks.rank + 1) * share)
    local = Components(components.magnitude[rows], components.visual[rows], components.audio[rows])
    ranks.traffic.take()
    loss = ConsistencyLoss(local, config_of(name), ranks)
    if ranks.world_size > 1:  # as a step does
        loss.start()
    gradients = loss.gradients()
    return {
        "loss": loss.loss,
        "visual": gradients.visual,
        "audio": gradients.audio,
        "sent": ranks.traffic.take().get("features", 0.0),
    }


def main() -> None:
    torch.set_num_threads(1)
    with Ranks(timeout_s=120) as ranks:
        torch.save({name: results(name, ranks) for name in CASES}, Path(sys.argv[1], f"{ranks.rank}.pt"))


if __name__ == "__main__":
    main()
