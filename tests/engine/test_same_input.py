"""Who reads a manifest, with real processes: one rank for all that see the same file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ialcms.data.manifest import FILE_NAME, columns_of
from tests.support import torchrun
from tests.support.data import write_shards

PROGRAM = """
import json, os, sys
from pathlib import Path
from ialcms.data import manifest as manifest_module
from ialcms.engine import Ranks, same_input

reads, whole = [], same_input.open_manifest

def open_manifest(location):
    reads.append(location)
    return whole(location)

same_input.open_manifest = open_manifest
out, location, cache, *nodes = sys.argv[1:]
rank = os.environ["RANK"]
if cache:
    os.environ["WDS_CACHE"] = cache
    manifest_module._FEW_BYTES = 100  # or it would be too small for the cache
if nodes:
    os.chdir(nodes[rank != "0"])  # a folder of its own stands for a node's disk
with Ranks() as ranks:
    try:
        found = same_input.open_same_manifest(ranks, location)
        keys = [clip.key for clip in found.clips]
        source = found.table.source and str(found.table.source[0])
        result = {"digest": found.digest, "keys": keys, "source": source, "folder": str(found.folder)}
    except ValueError as error:
        result = {"error": str(error)}
(Path(out) / f"{rank}.json").write_text(json.dumps({"reads": len(reads), **result}))
"""


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "shards", [6, 7]).folder


def open_on_ranks(folder: Path, location: str, *nodes: Path, cache: Path | str = "") -> list[dict]:
    """What each of three ranks finds; nodes: a folder for rank 0 and one for the others to be in."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    program = folder / "program.py"
    program.write_text(PROGRAM)
    done = torchrun(3, str(program), str(out), location, str(cache), *map(str, nodes))
    assert done.returncode == 0, done.stderr
    return [json.loads((out / f"{rank}.json").read_text()) for rank in range(3)]


@pytest.mark.distributed
@pytest.mark.parametrize("has_columns", [True, False])
def test_only_rank_0_reads_what_all_see(shards: Path, tmp_path: Path, has_columns: bool) -> None:
    columns = columns_of(shards / FILE_NAME)
    if not has_columns:  # a small set comes by the broadcast
        columns.unlink()
    found = open_on_ranks(tmp_path, str(shards))
    assert [each["reads"] for each in found] == [1, 0, 0]
    assert [each["source"] for each in found] == [str(columns) if has_columns else None] * 3
    assert len({(each["digest"], *each["keys"]) for each in found}) == 1
    assert len(found[0]["keys"]) == 13


@pytest.mark.distributed
def test_a_node_with_a_copy_reads_it_once(shards: Path, tmp_path: Path) -> None:
    nodes = tmp_path / "n1", tmp_path / "n2"
    for node in nodes:
        shutil.copytree(shards, node / "shards")
    found = open_on_ranks(tmp_path, "shards", *nodes)
    assert [each["reads"] for each in found] == [1, 1, 0]
    assert len({(each["digest"], *each["keys"]) for each in found}) == 1
    (nodes[1] / "shards" / "clips-001.tar").unlink()
    (error,) = {each["error"] for each in open_on_ranks(tmp_path, "shards", *nodes)}
    assert error.startswith("rank 1 on ")
    assert "shard shards/clips-001.tar is missing" in error


@pytest.mark.distributed
def test_a_machine_fetches_once(shards: Path, tmp_path: Path) -> None:
    log, cache = tmp_path / "log", tmp_path / "cache"
    found = open_on_ranks(tmp_path, f"pipe:echo {{}} >> {log}; cat {shards}/{{}}", cache=cache)
    assert log.read_text().split() == [FILE_NAME]
    digest = found[0]["digest"]
    assert [each["reads"] for each in found] == [1, 0, 0]
    assert {each["folder"] for each in found} == {str(cache / digest)}
    assert {each["source"] for each in found} == {str(cache / "manifests" / f"{digest}.columns")}
