"""What is printed where all ranks refuse the same configuration, by torchrun itself and by the launchers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support import python, torchrun

REFUSED = ("train", "demo", "train.stps=3")
LINE = r"ialcms: error: .*train\.stps.*did you mean .*steps.*"


@pytest.mark.distributed
def test_the_launchers_print_the_reason_alone() -> None:
    done = python("-m", "launch.local", "--ranks", "2", *REFUSED)
    assert done.returncode == 2
    assert re.fullmatch(LINE + r"\n", done.stderr)


@pytest.mark.distributed
def test_torchrun_ends_with_the_reason(tmp_path: Path) -> None:
    done = torchrun(2, "-m", "ialcms", *REFUSED)
    assert done.returncode == 1  # whatever the ranks' exit code is
    lines = done.stderr.splitlines()
    assert len([line for line in lines if re.fullmatch(LINE, line)]) == 1  # of rank 0, above torchrun's traceback
    assert re.fullmatch(r"  traceback : " + LINE, lines[-2])
    assert re.fullmatch(r"=+", lines[-1])


@pytest.mark.distributed
def test_an_unknown_option_is_reported_once() -> None:
    done = python("-m", "launch.local", "--ranks", "2", "train", "demo", "--stps", "3")
    assert done.returncode == 2
    assert done.stderr.count("ialcms: error: unrecognized arguments: --stps 3") == 1
    assert done.stderr.count("usage:") == 1
