"""The command line: `ialcms <verb>`, the same as `python -m ialcms <verb>`, also under torchrun."""

from __future__ import annotations

import argparse
import errno
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import CalledProcessError

from ialcms import __version__
from ialcms.launched import adopt_launcher, launched
from ialcms.names import is_utf8, printable
from ialcms.overwriting import refuse_overwriting
from ialcms.places import prepare_places
from ialcms.refusal import LostProcess, SharedRefusal
from ialcms.shortages import shortage
from ialcms.terminal import plain_output

_NOT_USABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR,
               errno.ENAMETOOLONG, errno.ELOOP)  # fmt: skip
_OVERRIDES = "configuration values as section.key=value, like train.steps=100 data.num_mixtures=3"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code: 0, or 2 after one line about what is wrong with the input."""
    with plain_output():
        return _run(sys.argv[1:] if arguments is None else list(arguments))


def _run(arguments: Sequence[str]) -> int:
    parser = _parser(with_data="data" in arguments)
    args, more = parser.parse_known_args(arguments)
    # argparse takes positional values only in one run: those behind an option are left over
    if more and not (hasattr(args, "overrides") and all("=" in text and text[0] != "-" for text in more)):
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    if more:
        args.overrides = [*args.overrides, *more]
    func: Callable[[argparse.Namespace], int] = args.func
    try:
        prepare_places()
        code = func(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read our output, like `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
        return 128 + signal.SIGPIPE
    except ValueError as error:
        return _refuse(str(error), isinstance(error, SharedRefusal))
    except LostProcess as error:
        print(f"ialcms: error: {error}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError, ImportError) as error:
        if line := shortage(error):
            return _refuse(line)
        raise
    except OSError as error:
        if error.errno not in _NOT_USABLE:
            if line := shortage(error):
                return _refuse(line)
            raise
        where = error.filename or "a file that was to be written"  # what fails in the middle of a file has no name
        return _refuse(f"{where}: {error.strerror}; make room there, or give a path that can be used")
    except CalledProcessError as error:  # of a program that this one started: it has said why itself
        print(
            f"ialcms: error: '{' '.join(map(str, error.cmd))}' ended with exit code {error.returncode}", file=sys.stderr
        )
        return 1
    except KeyboardInterrupt:
        return 130


def _refuse(message: str, told_by_first: bool = False) -> int:
    """told_by_first: rank 0 knows it too, and tells it."""
    rank = _rank()
    if rank:
        # As a rule all ranks find the same fault, and torchrun ends all as soon as one has ended: let the first one
        # speak. A rank that is still there then has found a fault of its own, as where its machine lacks a file.
        time.sleep(15)
        if told_by_first:
            return 2
        message = f"rank {rank} on {platform.node()}: {message}"
    print(f"ialcms: error: {printable(message)}", file=sys.stderr)
    return 2


def _rank() -> int:
    """This rank's number; 0 where the environment does not make it one of many."""
    try:
        return launched().rank
    except ValueError:
        return 0


def _parser(with_data: bool = True) -> argparse.ArgumentParser:
    """with_data: with the verbs of `ialcms data`, whose modules need more packages than an exported separator does."""
    parser = argparse.ArgumentParser(
        prog="ialcms", description="Picture-guided separation of instrument sounds, trained without labels."
    )
    parser.add_argument("--version", action="version", version=f"ialcms {__version__}")
    # the deepspeed launcher adds it; the environment says the same
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="verb")

    train = _verb(verbs, "train", _train, "train a separator", "ialcms train demo train.steps=100",
                  "torchrun --standalone --nproc_per_node=2 -m ialcms train demo")  # fmt: skip
    _add_config(train)
    train.add_argument("--folder", type=Path, help="folder of the run (default: runs/<name>); an old one is continued")
    train.add_argument(
        "--resume",
        default="auto",
        metavar="auto|none|CHECKPOINT",
        help="go on from the folder's newest checkpoint (default), from none, or from this one",
    )
    train.add_argument(
        "--init-from",
        type=Path,
        metavar="WEIGHTS",
        help="start with the networks of a checkpoint, a run, or a file with the published names",
    )
    train.add_argument(
        "--profile",
        type=int,
        metavar="N",
        help="write a trace of N steps into the run's folder, and the ten costliest modules into the log",
    )

    evaluate = _verb(verbs, "evaluate", _evaluate, "score a run's best checkpoint on mixes of held-out videos",
                     "ialcms evaluate runs/demo eval.draws=1",
                     "ialcms evaluate runs/demo --mixes mixes.csv --metrics fast",
                     "ialcms evaluate runs/demo --report eval.examples=15",
                     "ialcms evaluate --compare runs/demo runs/demo_solo",
                     "torchrun --nproc_per_node=2 -m ialcms evaluate runs/demo eval.num_sources=3")  # fmt: skip
    evaluate.add_argument("run", nargs="?", help="folder of the run")
    evaluate.add_argument("overrides", nargs="*", metavar="key=value", help=_OVERRIDES)
    evaluate.add_argument("--checkpoint", type=Path, help="folder of another checkpoint (default: the run's best)")
    evaluate.add_argument("--out", type=Path, help="folder of the results (default: RUN/evaluation/<split>-<M>mix)")
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
    evaluate.add_argument("--compare", type=Path, nargs=2, metavar=("A", "B"),
                          help="print two evaluated runs side by side and the paired difference B - A")  # fmt: skip

    separate = _verb(verbs, "separate", _separate, "separate one's own video: a sound and a heat-map video per object",
                     "ialcms separate duet.mp4 --checkpoint runs/duet --boxes violin=20,30,200,280 310,40,500,270@2.5",
                     "ialcms separate song.wav --checkpoint duet.pt --pictures violin.jpg cello.jpg")  # fmt: skip
    separate.add_argument("source", type=Path, help="video, or a sound if --pictures are given")
    separate.add_argument("--checkpoint", type=Path, required=True, metavar="RUN|CHECKPOINT|FILE",
                          help="trained run (its best checkpoint), checkpoint, or file of 'ialcms export'")  # fmt: skip
    separate.add_argument("--boxes", nargs="+", default=[], metavar="BOX",
                          help="[NAME=]X1,Y1,X2,Y2[@SECONDS]; with a name if X1 is negative")  # fmt: skip
    separate.add_argument("--click", nargs="+", default=[], metavar="POINT", help="[NAME=]X,Y[@SECONDS]")
    separate.add_argument(
        "--pictures", nargs="+", type=Path, default=[], help="a picture of each instrument: JPEG, PNG or WebP"
    )
    separate.add_argument("--detector", type=Path, metavar="WEIGHTS", help="finds the instruments; see 'data detect'")
    separate.add_argument("--min-score", type=float, default=0.9, help="least confidence of the detector")
    separate.add_argument("--out", type=Path, default=Path("separated"), help="folder of the results")
    separate.add_argument(
        "--above",
        choices=("share", "remainder"),
        default="share",
        help="above the network's range objects get their share of the octave below, or nothing",
    )
    separate.add_argument("--no-videos", action="store_true", help="sounds only")
    separate.add_argument("--batch-windows", type=int, default=16, help="windows that pass the network together")
    separate.add_argument("--device", help="like cuda or cpu (default: a GPU if there is one)")

    export = _verb(verbs, "export", _export,
                   "write the separator alone, for use elsewhere ('checkpoint export': the published names)",
                   "ialcms export runs/duet --out duet.pt",
                   "ialcms export runs/duet --out duet.pt2 --torch-export --objects 2")  # fmt: skip
    export.add_argument("source", type=Path, metavar="RUN|CHECKPOINT",
                        help="a trained run (its best checkpoint), or a checkpoint's folder")  # fmt: skip
    export.add_argument("--out", type=Path, required=True, metavar="FILE", help="weights and configuration to write")
    export.add_argument("--torch-export", action="store_true",
                        help="write a torch.export program (.pt2) of fixed shapes instead")  # fmt: skip
    export.add_argument("--objects", type=int, default=2, help="with --torch-export: pictures that come with a mix")

    info = _verb(verbs, "info", _info, "shapes, parameters, steps per epoch, batch arithmetic, shard coverage",
                 "ialcms info duet", "ialcms info demo --workers 4",
                 "ialcms info runs/demo/config.yaml --plan 100")  # fmt: skip
    _add_config(info)
    info.add_argument("--workers", type=int, default=1, help="number of training ranks to do the arithmetic for")
    info.add_argument("--plan", type=int, metavar="STEP", help="print what every mix of this step (from 0) is made of")
    info.add_argument("--read-clips", action="store_true", help="with --plan: read its clips, show replaced ones")

    _add_configs(verbs)

    pretrain = _verb(verbs, "pretrain", _pretrain,
                     "train the backbone to name instruments, where ImageNet's does not fit",
                     "ialcms pretrain demo --out runs/demo/backbone.pt")  # fmt: skip
    _add_config(pretrain)
    pretrain.add_argument("--out", type=Path, required=True, help="file for the weights")
    pretrain.add_argument("--steps", type=int, default=300, help="batches of pictures")
    pretrain.add_argument("--batch", type=int, default=64, help="pictures in a batch")

    _add_checkpoint(verbs)

    demo = _verb(verbs, "demo", _demo, "the whole job on made-up data: make, pack, train, evaluate, report",
                 "ialcms demo", "ialcms demo --supervised --workers 1")  # fmt: skip
    demo.add_argument("--supervised", action="store_true", help="train on solos with targets (configuration demo_solo)")
    demo.add_argument("--workers", type=int, help="training ranks (default: 2, but 1 on a machine with one GPU)")
    demo.add_argument("--data", type=Path, default=Path("data/demo"), help="folder for the data")
    demo.add_argument("--folder", type=Path, help="folder of the run (default: runs/<name>)")
    demo.add_argument("overrides", nargs="*", metavar="key=value", help=_OVERRIDES)

    data = verbs.add_parser("data", help="prepare data: from videos or a prepared tree to shards")
    if with_data:
        from shards.cli import add_parsers

        add_parsers(data.add_subparsers(dest="data_verb", required=True, metavar="verb"))
    return parser


def _add_checkpoint(verbs: argparse._SubParsersAction) -> None:
    actions = verbs.add_parser("checkpoint", help="show, compare or export checkpoints").add_subparsers(
        dest="action", required=True, metavar="action"
    )
    path = "a checkpoint's folder, or a run's folder for its newest one"
    show = _verb(actions, "show", _checkpoint_show, "say what is inside", "ialcms checkpoint show runs/demo")
    show.add_argument("path", type=Path, help=path)
    diff = _verb(actions, "diff", _checkpoint_diff, "say how two differ", "ialcms checkpoint diff runs/a runs/b")
    diff.add_argument("first", type=Path, help=path)
    diff.add_argument("second", type=Path, help=path)
    export = _verb(actions, "export", _checkpoint_export,
                   "write both networks by the published code's names (for use here: 'ialcms export')",
                   "ialcms checkpoint export runs/duet --out authors.ckpt")  # fmt: skip
    export.add_argument("path", type=Path, help=path)
    export.add_argument("--out", type=Path, required=True, help="file to write")


def _add_configs(verbs: argparse._SubParsersAction) -> None:
    configs = _verb(verbs, "configs", _configs_list, "list the configurations by name; show, explain, copy them",
                    "ialcms configs", "ialcms configs show duet", "ialcms configs fields",
                    "ialcms configs copy my-project")  # fmt: skip
    actions = configs.add_subparsers(dest="action", metavar="action")
    show = _verb(actions, "show", _configs_show, "print a configuration with every default",
                 "ialcms configs show duet", "ialcms configs show my.yaml data.num_mixtures=3")  # fmt: skip
    _add_config(show)
    _verb(actions, "fields", _configs_fields,
          "print every field: default, range, meaning, whether a resumed run may change it",
          "ialcms configs fields")  # fmt: skip
    copy = _verb(actions, "copy", _configs_copy, "copy configs/ and slurm/ (batch files) to a folder, to change them",
                 "ialcms configs copy my-project")  # fmt: skip
    copy.add_argument("folder", type=Path, help="gets the folders configs and slurm")


def _verb(
    verbs: argparse._SubParsersAction, name: str, func: Callable, help: str, *examples: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog="examples:\n" + "\n".join(f"  {example}" for example in examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(func=func)
    return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, help="YAML file, or a name of 'ialcms configs', like duet")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=_OVERRIDES)


# The verbs import what they need when they run: `ialcms --help` answers at once.


def _train(args: argparse.Namespace) -> int:
    from ialcms.training.stop_request import end_with_agent

    end_with_agent()  # before the imports below, which take seconds
    adopt_launcher()
    if args.init_from is not None and args.resume not in ("auto", "none"):
        raise ValueError(
            f"--resume {args.resume} goes on with a run and --init-from {args.init_from} begins one; give one of them"
        )
    from ialcms.config import load_config
    from ialcms.engine import Ranks, check_engine
    from ialcms.runs.run_folder import RunFolder
    from ialcms.training.trainer import train

    config = load_config(args.config, args.overrides)
    if args.profile is not None and args.profile < 1:
        raise ValueError(f"--profile is {args.profile}; give the number of steps to look at, 1 or more")
    folder = RunFolder(args.folder or Path("runs") / config.name)
    if not is_utf8(str(folder.path)):
        raise ValueError(f"{folder.path}: TensorBoard cannot write to folders whose names are no UTF-8; rename it")
    if not folder.environment.exists():  # of an earlier start: then the configuration is the run's own
        refuse_overwriting([folder.config], [args.config], "give another --folder, or rename your configuration")
    check_engine(config)
    with Ranks(timeout_s=max(1_800, 2 * config.train.timeout_s)) as ranks:  # the watchdog is to be first
        train(config, folder, ranks, args.resume, weights=args.init_from, profiled_steps=args.profile or 0)
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from ialcms.runs.run_folder import RunFolder

    if args.compare:
        others = [f"--{name}" for name in ("checkpoint", "out", "mixes", "metrics", "report") if getattr(args, name)]
        if others:
            raise ValueError(f"--compare reads what two evaluations have written and takes no {', '.join(others)}")
        from ialcms.evaluation.compare import compare

        overrides = [args.run, *args.overrides] if args.run else args.overrides  # the first one lands in `run`
        a, b = args.compare
        print(compare(a, b, overrides))
        return 0
    adopt_launcher()
    from ialcms.engine import Ranks
    from ialcms.evaluation.evaluate import evaluate, lease_of, rewrite_page

    if args.run is None:
        raise ValueError("name the run to evaluate, like: ialcms evaluate runs/demo")
    overrides = [*args.overrides, f"eval.metrics={args.metrics}"] if args.metrics else args.overrides
    folder = RunFolder(args.run)
    config = folder.read_config(overrides)
    out = args.out or (folder.evaluation / args.mixes.stem if args.mixes else folder.evaluation_of(config))
    checkpoint = args.checkpoint or folder.best_checkpoint()
    with Ranks() as ranks:
        if not args.report:
            evaluate(config, checkpoint, ranks, out, args.mixes)
        elif ranks.is_first:
            with lease_of(out):
                print(f"report: {rewrite_page(config, checkpoint, ranks.device, out)}")
    return 0


def _separate(args: argparse.Namespace) -> int:
    from ialcms.inference import Box, Click, separate_file

    objects: list[Box | Click] = [*map(Box.parse, args.boxes), *map(Click.parse, args.click)]
    result = separate_file(
        args.source, args.checkpoint, objects, pictures=args.pictures, detector=args.detector,
        min_score=args.min_score, out=args.out, above=args.above, videos=not args.no_videos,
        batch_windows=args.batch_windows, device=args.device,
    )  # fmt: skip
    print("\n".join(map(str, (*result.stems, result.remainder, *result.videos))))
    return 0


def _export(args: argparse.Namespace) -> int:
    from ialcms.inference.export import export_program, export_weights

    if args.torch_export:
        print(export_program(args.source, args.out, args.objects))
    else:
        print(export_weights(args.source, args.out))
    return 0


def _info(args: argparse.Namespace) -> int:
    from ialcms.config import load_config
    from ialcms.info import describe, describe_plan

    config = load_config(args.config, args.overrides)
    if args.plan is not None:
        print(describe_plan(config, args.plan, args.workers, args.read_clips))
    else:
        print(describe(config, args.workers))
    return 0


def _configs_list(args: argparse.Namespace) -> int:
    from ialcms.config_tool import list_configs

    print(list_configs())
    return 0


def _configs_show(args: argparse.Namespace) -> int:
    from ialcms.config_tool import show_config

    print(show_config(args.config, args.overrides))
    return 0


def _configs_fields(args: argparse.Namespace) -> int:
    from ialcms.config_tool import show_fields

    print(show_fields())
    return 0


def _configs_copy(args: argparse.Namespace) -> int:
    from ialcms.config_tool import copy_own

    print("\n".join(map(str, copy_own(args.folder))))
    return 0


def _pretrain(args: argparse.Namespace) -> int:
    from ialcms.config import load_config
    from ialcms.training.pretrain import pretrain

    config = load_config(args.config, args.overrides)
    if args.out.is_dir():
        raise ValueError(f"{args.out} is a folder; name a file, like {args.out / 'backbone.pt'}")
    weights = [Path(config.model.visual.weights)] if config.model.visual.weights else []
    refuse_overwriting([args.out], [args.config, *weights], "name another file")
    pretrain(config, args.out, args.steps, args.batch)
    return 0


def _checkpoint_show(args: argparse.Namespace) -> int:
    from ialcms.runs.checkpoint_tool import show

    print(show(args.path))
    return 0


def _checkpoint_diff(args: argparse.Namespace) -> int:
    from ialcms.runs.checkpoint_tool import diff

    print(diff(args.first, args.second))
    return 0


def _checkpoint_export(args: argparse.Namespace) -> int:
    from ialcms.runs.checkpoint_tool import export

    print(export(args.path, args.out))
    return 0


def _demo(args: argparse.Namespace) -> int:
    from ialcms.demo.pipeline import run_demo

    run_demo(args.data, args.folder, args.supervised, args.workers, args.overrides)
    return 0
