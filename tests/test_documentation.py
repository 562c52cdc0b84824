"""Examples of the documentation are run as they stand."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.evaluation import evaluation_config, make_run, write_evaluation_shards


def test_the_examples_of_the_api_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = write_evaluation_shards(tmp_path / "data" / "shards")
    make_run(tmp_path / "runs" / "duet", evaluation_config(tmp_path / "data" / "shards"), manifest)
    monkeypatch.chdir(tmp_path)
    failures, examples = doctest.testfile(str(ROOT / "docs" / "api.md"), module_relative=False, encoding="utf-8")
    assert examples > 25
    assert failures == 0
