"""What the ranks of the multi-process tests run: `torchrun tests/engine/program.py FOLDER case ...`.

On GPUs where there are any, by NCCL, else on CPU by gloo. Each rank writes FOLDER/<rank>.pt, a dictionary of case
-> result; the tests compare them. A case is the name of a function of `tests/engine/cases`, `name:key=value,...` passes
it arguments.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from ialcms.engine import Ranks
from ialcms.launched import end_process
from tests.engine.cases.bank import bank_of_ranks
from tests.engine.cases.batchnorm import batchnorm
from tests.engine.cases.communication import gather, traffic
from tests.engine.cases.faults import disagreement, not_finite
from tests.engine.cases.resuming import resume, shared_state
from tests.engine.cases.steps import (
    alternate_steps,
    alternate_steps_of_many,
    alternate_steps_with_options,
    alternate_steps_without_batchnorm,
    bf16_passes,
    long_run,
)

CASES = {
    case.__name__: case
    for case in (
        alternate_steps, alternate_steps_of_many, alternate_steps_with_options, alternate_steps_without_batchnorm,
        long_run, batchnorm, gather, resume, bf16_passes,
        not_finite, disagreement, traffic, bank_of_ranks, shared_state,
    )
}  # fmt: skip


def main() -> None:
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False
    results: dict[str, Any] = {}
    with Ranks(timeout_s=120) as ranks:
        for case in names:
            name, _, arguments = case.partition(":")
            options = dict(option.split("=") for option in arguments.split(",") if option)
            values = {key: _value(text) for key, text in options.items()}
            results[case] = CASES[name](ranks, **values)
        torch.save(results, folder / f"{ranks.rank}.pt")


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


if __name__ == "__main__":
    main()
    end_process(0)
