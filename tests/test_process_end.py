"""How the program's process ends, alone and as one of several ranks."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# Stands for gloo's threads: an object that lives until Python takes itself apart.
PROGRAM = """
import atexit, sys
import ialcms.__main__ as program

class LivesOn:
    def __del__(self):
        print("released")

LivesOn.one = LivesOn()
atexit.register(print, "at exit")
program.main = lambda: print("ran", end=" ") or 3
program.run()
"""


@pytest.mark.parametrize(("world_size", "output"), [("1", "ran at exit\nreleased\n"), ("2", "ran at exit\n")])
def test_one_of_several_ranks_does_not_take_python_apart(world_size: str, output: str) -> None:
    environment = os.environ | {"WORLD_SIZE": world_size, "RANK": "0"}
    result = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (3, output, "")
