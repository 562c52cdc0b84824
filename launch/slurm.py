"""Submit a job to a SLURM cluster: the batch scripts in slurm/, with the options filled in.

    python -m launch.slurm --nodes=2 --gpus-per-node=4 --time=24:00:00 train configs/duet.yaml train.steps=50000
    python -m launch.slurm --dry-run --array=0-4 sweep configs/demo.yaml       # prints the script, submits nothing
    python -m launch.slurm evaluate runs/duet-1234
    python -m launch.slurm --array=0-7 --cpus-per-task=16 pack data/music --out data/music/shards

What comes before the verb are options of sbatch, what comes after it goes to the script.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

VERBS = ("train", "evaluate", "sweep", "pack")
FOLDER = Path("slurm")  # a job reads from it too, so it has to be where the job is submitted


def fill_in(verb: str, options: Sequence[str], arguments: Sequence[str], folder: Path = FOLDER) -> str:
    """The batch script of a verb with sbatch options and its own arguments in it.

    folder: of the scripts, `<verb>.sbatch`. Raises ValueError when the script is not there.
    """
    path = folder / f"{verb}.sbatch"
    if not path.is_file():
        installed = "." in (__package__ or "")  # without the checkout
        where = "a folder that 'ialcms configs copy' has made" if installed else "the project's folder"
        raise ValueError(f"{path} is not here; submit jobs from {where}")
    lines = path.read_text().splitlines()
    last = max(number for number, line in enumerate(lines) if line.startswith("#SBATCH"))
    filled = [f"#SBATCH {option}" for option in _join_values(options)]
    return "\n".join([*lines[: last + 1], *filled, shlex.join(["set", "--", *arguments]), *lines[last + 1 :], ""])


def submit(script: str) -> str:
    """Hand a script to sbatch; returns the job's id. Raises ValueError with sbatch's own words when it refuses."""
    try:
        result = subprocess.run(["sbatch", "--parsable"], input=script, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise ValueError("there is no sbatch here; submit on a cluster's login node, or look with --dry-run") from error
    if result.returncode:
        raise ValueError(f"sbatch: {' '.join(result.stderr.replace('sbatch: error: ', '').split())}")
    return result.stdout.strip().partition(";")[0]  # JOB;CLUSTER where there are several clusters


def check_arguments(verb: str, arguments: Sequence[str]) -> None:
    """Raises ValueError for arguments that the script would refuse when the job starts."""
    if verb == "pack":
        if not _value_of("--out", arguments):
            raise ValueError("pack into which folder? Give --out")
        return
    positional = arguments[2:] if verb == "sweep" and arguments[0] == "--list" else arguments
    if not positional or positional[0].startswith("-"):
        raise ValueError(
            f"{verb} of what? {'A run' if verb == 'evaluate' else 'A configuration'} comes first; see --help"
        )


def result_lines(verb: str, arguments: Sequence[str], job: str) -> list[str]:
    """Where the job will put what it makes, and how to look at it."""
    if verb == "evaluate":
        return [f"results: {_value_of('--out', arguments) or f'{arguments[0]}/evaluation'}"]
    if verb == "pack":
        return [f"shards: {_value_of('--out', arguments)}"]
    positional = arguments[2:] if arguments[0] == "--list" else arguments
    folder = _value_of("--folder", arguments) if verb == "train" else ""
    folder = folder or f"runs/{Path(positional[0]).stem}-{job}"
    # a sweep has a run in each folder below; a run is shown beside its neighbours
    curves = folder if verb == "sweep" or "/" not in folder else Path(folder).parent
    return [f"run folder: {folder}", f"curves: tensorboard --logdir {curves}"]


def _join_values(options: Sequence[str]) -> list[str]:
    """['--nodes', '2', '--requeue'] -> ['--nodes 2', '--requeue'], quoted."""
    joined: list[str] = []
    for option in options:
        if option.startswith("-"):
            joined.append(_quote(option))
        elif joined:
            joined[-1] += f" {_quote(option)}"
        else:
            raise ValueError(f"'{option}' is neither a verb ({', '.join(VERBS)}) nor an option of sbatch")
    return joined


def _quote(text: str) -> str:
    return f'"{text}"' if re.search(r"\s", text) else text


def _value_of(name: str, arguments: Sequence[str]) -> str:
    """The value of the last `NAME VALUE` or `NAME=VALUE`, '' without any."""
    value = ""
    for number, text in enumerate(arguments):
        if text == name and number + 1 < len(arguments):
            value = arguments[number + 1]
        elif text.startswith(f"{name}="):
            value = text.partition("=")[2]
    return value


def main(words: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if words is None else words)
    verb = next((word for word in words if word in VERBS), None)
    before = words[: words.index(verb)] if verb else words
    if "--help" in before or "-h" in before or not words:
        print((__doc__ or "").replace("launch.slurm", f"{__package__}.slurm"))
        return 0
    try:
        if verb is None:
            raise ValueError(f"give a verb: {', '.join(VERBS)}")
        arguments = words[words.index(verb) + 1 :]
        if not arguments:
            raise ValueError(f"{verb} of what? See --help")
        check_arguments(verb, arguments)
        dry_run = "--dry-run" in before
        script = fill_in(verb, [word for word in before if word != "--dry-run"], arguments)
        if dry_run:
            print(script, end="")
            return 0
        job = submit(script)
    except ValueError as error:
        print(f"launch: error: {error}", file=sys.stderr)
        return 2
    print("\n".join([f"job: {job}", *result_lines(verb, arguments, job), f"watch it: squeue --job {job}"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
