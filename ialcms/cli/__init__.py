"""The command line: `ialcms <verb>`, the same as `python -m ialcms <verb>`, also under torchrun.

A module a verb: `add_<verb>` builds its parser, a function below it runs it. Verbs import
what they need when they run, so that `ialcms --help` answers at once.
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence
from subprocess import CalledProcessError
from typing import NoReturn

from ialcms import __version__
from ialcms.cli.checkpoint import add_checkpoint
from ialcms.cli.completion import add_completion
from ialcms.cli.configs import add_configs
from ialcms.cli.demo import add_demo
from ialcms.cli.evaluate import add_evaluate
from ialcms.cli.export import add_export
from ialcms.cli.import_weights import add_import
from ialcms.cli.info import add_info
from ialcms.cli.listen import add_listen
from ialcms.cli.pretrain import add_pretrain
from ialcms.cli.refusing import launched_rank, refuse
from ialcms.cli.separate import add_separate
from ialcms.cli.train import add_train
from ialcms.process_limits import prepare_process
from ialcms.refusal import LostProcess, SharedRefusal
from ialcms.shortages import shortage
from ialcms.terminal import plain_output

_NOT_USABLE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.ENOENT,
    errno.EEXIST,
    errno.EINVAL,
)

# In the order of `ialcms --help`.
_VERBS = (
    add_train,
    add_evaluate,
    add_separate,
    add_listen,
    add_export,
    add_import,
    add_info,
    add_configs,
    add_pretrain,
    add_checkpoint,
    add_demo,
)


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
        prepare_process()
        code = func(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read our output, like `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
        return 128 + signal.SIGPIPE
    except ValueError as error:
        return refuse(str(error), isinstance(error, SharedRefusal))
    except LostProcess as error:
        print(f"ialcms: error: {error}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError, ImportError) as error:
        if line := shortage(error):
            return refuse(line)
        raise
    except OSError as error:
        if error.errno not in _NOT_USABLE:
            if line := shortage(error):
                return refuse(line)
            raise
        where = error.filename or "a file that was to be written"  # what fails in the middle of a file has no name
        return refuse(f"{where}: {error.strerror}; make room there, or give a path that can be used")
    except CalledProcessError as error:  # of a program that this one started: it has said why itself
        print(
            f"ialcms: error: '{' '.join(map(str, error.cmd))}' ended with exit code {error.returncode}", file=sys.stderr
        )
        return 1
    except KeyboardInterrupt:
        return 130


class _Parser(argparse.ArgumentParser):
    """Of many ranks, one reports what is wrong with the command line."""

    def error(self, message: str) -> NoReturn:
        if launched_rank() == 0:
            self.print_usage(sys.stderr)
        sys.exit(refuse(message, program=self.prog))


def _parser(with_data: bool = True) -> argparse.ArgumentParser:
    """with_data: with the verbs of `ialcms data`, whose modules need more packages than an exported separator does."""
    parser = _Parser(
        prog="ialcms", description="Picture-guided separation of instrument sounds, trained without labels."
    )
    parser.add_argument("--version", action="version", version=f"ialcms {__version__}")
    # the deepspeed launcher adds it; the environment says the same
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="verb")
    for add_parser in _VERBS:
        add_parser(verbs)
    add_completion(verbs, _parser)
    data = verbs.add_parser("data", help="prepare data: from videos or a prepared tree to shards")
    if with_data:
        from shards.cli import add_parsers

        add_parsers(data.add_subparsers(dest="data_verb", required=True, metavar="verb"))
    return parser
