"""Damaged and hostile files of every kind that is read: refused in one line, or read; never a crash, never a flood.

A fault shows as 'KIND NUMBER: ...'; `python -m tests.fuzz.program 200 SEED KIND` runs one kind again.
"""

from __future__ import annotations

import pytest

from tests.support import python

INPUTS = 200  # of each kind


@pytest.mark.slow
def test_no_file_is_answered_by_a_traceback() -> None:
    result = python("-m", "tests.fuzz.program", str(INPUTS), "0", timeout_s=1_500)
    assert result.stdout.splitlines() == []
    assert result.returncode == 0, result.stderr[-3_000:]


def test_the_fuzzer_finds_faults() -> None:
    """It can fail: a reader without its guard is found out."""
    code = (
        "import json, tests.fuzz.readers as readers; from tests.fuzz.program import run;"
        "readers.Report.read = classmethod(lambda cls, path: cls.from_dict(json.loads(path.read_text())));"
        "raise SystemExit(run(40, 0, 'report') == 0)"
    )
    result = python("-c", code)
    assert result.returncode == 0, result.stderr[-3_000:]
    assert "report " in result.stdout
