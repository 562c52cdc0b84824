"""`ialcms evaluate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ialcms.cli.common import OVERRIDES, add_verb
from ialcms.launched import adopt_launcher


def add_evaluate(verbs: argparse._SubParsersAction) -> None:
    evaluate = add_verb(
        verbs,
        "evaluate",
        _evaluate,
        help="score a run's best checkpoint on mixes of held-out videos",
        examples=[
            "ialcms evaluate runs/demo eval.draws=1",
            "ialcms evaluate runs/demo --mixes mixes.csv --metrics fast",
            "ialcms evaluate runs/demo --report eval.examples=15",
            "ialcms evaluate --compare runs/demo runs/demo_solo --out comparison.html",
            "torchrun --nproc_per_node=2 -m ialcms evaluate runs/demo eval.num_sources=3",
        ],
    )
    evaluate.add_argument("run", nargs="?", help="folder of the run")
    evaluate.add_argument("overrides", nargs="*", metavar="key=value", help=OVERRIDES)
    evaluate.add_argument(
        "--checkpoint",
        type=Path,
        metavar="RUN|CHECKPOINT|FILE",
        help="another checkpoint, or a file of 'ialcms export' (default: the run's best)",
    )
    evaluate.add_argument(
        "--out",
        type=Path,
        help="folder of the results (default: RUN/evaluation/<split>-<M>mix); with --compare: a page (.html) to write",
    )
    evaluate.add_argument("--mixes", type=Path, metavar="CSV", help="list of mixes: lines of mix,clip,box,start")
    evaluate.add_argument(
        "--metrics",
        choices=("auto", "mir_eval", "fast"),
        help="the reference, our own solver on the device, or that on a GPU only (default)",
    )
    evaluate.add_argument(
        "--report",
        action="store_true",
        help="write the page of an evaluation again, with eval.examples examples; nothing is scored",
    )
    evaluate.add_argument(
        "--compare",
        nargs="+",
        metavar="RUN",
        help="print evaluated runs side by side, and their paired differences from the first; --out PAGE.html writes "
        "the page of the comparison, with some mixes to hear as each run separates them",
    )


def _evaluate(args: argparse.Namespace) -> int:
    if args.compare:
        return _compare(args)
    adopt_launcher()
    from ialcms.engine import Ranks
    from ialcms.evaluation.evaluate import evaluate, lease_of, rewrite_page
    from ialcms.runs.run_folder import RunFolder
    from ialcms.runs.separators import find_checkpoint

    if args.run is None:
        raise ValueError("name the run to evaluate, like: ialcms evaluate runs/demo")
    overrides = [*args.overrides, f"eval.metrics={args.metrics}"] if args.metrics else args.overrides
    folder = RunFolder(args.run)
    config = folder.read_config(overrides)
    out = args.out or (folder.evaluation / args.mixes.stem if args.mixes else folder.evaluation_of(config))
    source = args.checkpoint or find_checkpoint(folder.path)
    with Ranks() as ranks:
        if not args.report:
            evaluate(config, source, ranks, out=out, mix_list=args.mixes)
        elif ranks.is_first:
            with lease_of(out):
                print(f"report: {rewrite_page(config, source, ranks.device, out=out)}")
    return 0


def _compare(args: argparse.Namespace) -> int:
    from ialcms.evaluation.compare import compare
    from ialcms.evaluation.comparison_page import write_comparison_page

    others = [f"--{name}" for name in ("checkpoint", "mixes", "metrics", "report") if getattr(args, name)]
    if others:
        raise ValueError(f"--compare reads what evaluations have written and takes no {', '.join(others)}")
    # --compare takes all words that follow, and the first of the other words lands in `run`
    words = [*args.compare, *filter(None, [args.run]), *args.overrides]
    runs = [Path(word) for word in words if "=" not in word or Path(word).is_dir()]
    overrides = [word for word in words if Path(word) not in runs]
    if len(runs) < 2:
        raise ValueError("--compare takes two runs or more, like: ialcms evaluate --compare runs/demo runs/demo_solo")
    if args.out and args.out.suffix != ".html":
        raise ValueError(f"--out {args.out}: with --compare, name the page to write, like comparison.html")
    comparisons = [compare(runs[0], other, overrides) for other in runs[1:]]
    print("\n\n".join(map(str, comparisons)))
    if args.out:
        page = write_comparison_page(args.out, comparisons, overrides)
        if page.no_sounds:
            print(f"the page has no sounds: {page.no_sounds}")
        print(f"report: {page.path}")
    return 0
