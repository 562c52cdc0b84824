"""The consistency loss by rows and columns is the direct form, on 1, 2 and 4 real ranks."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from ialcms import losses
from tests.support import python, torchrun
from tests.training import consistency_program as program

pytestmark = pytest.mark.distributed

Results = list[dict[str, Any]]


@pytest.fixture(scope="module", params=program.WORLD_SIZES)
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What each rank has of each case."""
    folder = tmp_path_factory.mktemp("consistency")
    start = python if request.param == 1 else functools.partial(torchrun, request.param)
    done = start(program.__file__, str(folder), timeout_s=300)
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(request.param)]


@pytest.mark.parametrize("name", program.CASES)
def test_against_the_direct_form(ranks: Results, name: str) -> None:
    config, components = program.config_of(name), program.components_of(name)
    visual, audio = components.visual.requires_grad_(), components.audio.requires_grad_()
    scores = losses.similarity(visual.flatten(0, 2), audio.flatten(0, 2))
    loss = losses.consistency_loss(scores, config.loss.temperature, config.loss.excluded_negatives)
    expected = torch.autograd.grad(loss, (visual, audio))
    exact = config.train.precision == "float32"

    mean = sum(float(rank[name]["loss"]) for rank in ranks) / len(ranks)
    assert mean == pytest.approx(float(loss.detach()), rel=0, abs=1e-13 if exact else 2e-3)
    if name == "equal scores" and len(ranks) > 1:
        return  # which of them are excluded, and so where the gradient is, is left open
    for key, gradient in zip(("visual", "audio"), expected):
        # an engine takes the mean over the ranks of gradients that are 0 for the other ranks' objects
        ours = torch.cat([rank[name][key] for rank in ranks]) / len(ranks)
        if exact:
            assert (ours - gradient).abs().max() <= 1e-13 * gradient.abs().max()
        else:  # among nearly equal scores another one is excluded, among nearly equal cells another one wins
            assert (ours - gradient).norm() < 0.03 * gradient.norm()


def test_what_is_sent(ranks: Results) -> None:
    """Embeddings there and back, k + 1 numbers of each column there and 2 back; nothing that grows with N * N."""
    world_size = len(ranks)
    objects, channels, excluded = 24 * 4, program.CHANNELS, 6
    numbers = channels + channels + (excluded + 1) + 2
    expected = (world_size - 1) / world_size * objects * numbers * 8
    assert [rank["usual"]["sent"] for rank in ranks] == [pytest.approx(expected)] * world_size
