"""How far engines and numbers of ranks are apart after 20 steps, and what they send; prints the tables of
docs/engines.md. On CPU, by gloo, a few minutes.

    python -m benchmarks.engines
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from tests.engine import program
from tests.engine.compare import loss_difference, output_difference, way_difference
from tests.engine.conftest import ACCUMULATED, DOUBLE, NO_BATCHNORM, SINGLE, zero
from tests.support import python, torchrun

AS_CONFIGURED = "alternate_steps"
NO_BATCHNORM_ACCUMULATED = f"{NO_BATCHNORM}:accumulation=2"
ZERO = [case for stage in range(4) for case in (zero(stage), zero(stage).replace("eps=1.0e-3,", ""))]
DDP = [SINGLE, AS_CONFIGURED, DOUBLE]


def run(ranks: int, cases: list[str]) -> dict[str, Any]:
    """Results of rank 0."""
    print(f"{len(cases)} cases on {ranks} rank{'s' if ranks > 1 else ''} ...", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        command = [program.__file__, folder, *cases]
        done = python(*command, timeout_s=3_600) if ranks == 1 else torchrun(ranks, *command, timeout_s=3_600)
        if done.returncode:
            sys.exit(done.stderr)
        return torch.load(Path(folder, "0.pt"), weights_only=True)  # type: ignore[no-any-return]


def row(engine: str, ranks: int, ours: dict[str, Any], reference: dict[str, Any], names: list[str | None]) -> str:
    """A line of the table. engine, ranks: its first cells. ours, reference: results by case, of the engine and of one
    rank.

    names: cases in single precision with eps 1e-3, the same as configured, in double precision; None: not done.
    """

    def way(name: str | None) -> str:
        if name is None:
            return "-"
        expected = reference[_reference(name)]
        return f"{max(way_difference(ours[name], expected, network) for network in ('separator', 'critic')):.0e}"

    first = names[0]
    losses = outputs = "-"
    if first is not None:
        losses = f"{loss_difference(ours[first], reference[_reference(first)]):.0e}"
        outputs = f"{output_difference(ours[first], reference[_reference(first)]):.0e}"
    return f"| {engine} | {ranks} | {losses} | {outputs} | {' | '.join(map(way, names))} |"


def _reference(name: str) -> str:
    """The case on one rank that a case is compared with."""
    if name.startswith(NO_BATCHNORM):
        return NO_BATCHNORM
    if "accumulation" in name:
        return ACCUMULATED
    if "float64" in name:
        return DOUBLE
    return SINGLE if "eps=" in name else AS_CONFIGURED


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    alone = run(1, [*DDP, ACCUMULATED, NO_BATCHNORM, NO_BATCHNORM_ACCUMULATED])
    two = run(2, [*DDP, ACCUMULATED, NO_BATCHNORM_ACCUMULATED, *ZERO, "traffic"])
    four = run(4, [*DDP, *ZERO])
    print("| engine | ranks | losses | outputs | parameters | as configured | float64 |")
    print("|---|---|---|---|---|---|---|")
    print(
        row(
            "single, accumulation 2, no BatchNorm",
            1,
            alone,
            reference=alone,
            names=[None, None, NO_BATCHNORM_ACCUMULATED],
        )
    )
    for ranks, ours in ((2, two), (4, four)):
        print(row("ddp", ranks, ours, reference=alone, names=[SINGLE, AS_CONFIGURED, DOUBLE]))
    print(row("ddp, accumulation 2 (against single, 2)", 2, two, reference=alone, names=[None, None, ACCUMULATED]))
    print(
        row("ddp, accumulation 2, no BatchNorm", 2, two, reference=alone, names=[None, None, NO_BATCHNORM_ACCUMULATED])
    )
    for stage in range(4):
        for ranks, ours in ((2, two), (4, four)):
            case = zero(stage)
            print(
                row(f"ZeRO {stage}", ranks, ours, reference=alone, names=[case, case.replace("eps=1.0e-3,", ""), None])
            )
    print()
    print("| engine | sent in a step, kB |")
    print("|---|---|")
    for engine, result in two["traffic"].items():
        sent = ", ".join(f"{kind} {num_bytes / 1e3:.1f}" for kind, num_bytes in result["computed"].items())
        print(f"| {engine} | {sent} |")


if __name__ == "__main__":
    main()
