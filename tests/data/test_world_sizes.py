"""Real ranks with real loader workers see the same batches, to the bit, however many they are."""

from __future__ import annotations

import itertools
import json
from contextlib import closing
from pathlib import Path

import pytest

from ialcms.data.train_batches import train_batches
from tests.data.batch_program import GLOBAL_BATCH, config_of, describe
from tests.support import torchrun
from tests.support.data import write_shards

STEPS, START = 6, 37
WORLDS = {1: 4, 2: 3, 3: 2, 4: 1, 6: 0, 8: 0}  # loader workers by number of ranks


@pytest.mark.distributed
@pytest.mark.slow
def test_keys_and_tensors_are_the_same_on_any_number_of_ranks(tmp_path: Path) -> None:
    broken = {"bell_000": {"wav": b"broken"}, "tuba_019": {"npy": b"broken"}}
    manifest = write_shards(tmp_path / "shards", [25, 5, 30], replace=broken)
    with closing(train_batches(config_of(0), manifest)) as batches:  # one run from its beginning on
        whole = list(itertools.islice(batches, START + STEPS))
    assert any(batch.bad for batch in whole[START:])
    expected = describe(whole[START:])
    assert len(expected) == STEPS * GLOBAL_BATCH

    worlds = ",".join(f"{ranks}:{processes}" for ranks, processes in WORLDS.items())
    program = Path(__file__).with_name("batch_program.py")
    arguments = [str(tmp_path / "shards"), str(tmp_path), str(START), str(STEPS), worlds]
    result = torchrun(max(WORLDS), str(program), *arguments)
    assert result.returncode == 0, result.stderr[-3_000:]
    for ranks in WORLDS:
        shares = [json.loads((tmp_path / f"{ranks}-{rank}.json").read_text()) for rank in range(ranks)]
        # the ranks' shares of a step, one after the other, are the global batch
        joined = [mix for step in range(START, START + STEPS) for share in shares for mix in share if mix[0] == step]
        assert joined == expected, f"{ranks} ranks"
