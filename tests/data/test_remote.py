"""Shards that are fetched: by commands and over http, within a size limit."""

from __future__ import annotations

import errno
import http.server
import itertools
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ialcms.config import Config
from ialcms.data import remote, transfer
from ialcms.data.clip_reader import read_clip
from ialcms.data.manifest import Manifest
from ialcms.data.remote import RemoteManifest, file_url, open_manifest
from ialcms.data.train_batches import Batch, train_batches
from tests.support.data import small_config, write_shards


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WDS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "ATTEMPTS", 1)
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """60 training clips in 6 shards."""
    return write_shards(tmp_path_factory.mktemp("many"), [10] * 6)


@pytest.fixture
def server(many: Manifest) -> Iterator[str]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(many.folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def take(count: int, config: Config, manifest: Manifest, start: int = 0) -> list[Batch]:
    with closing(train_batches(config, manifest, start)) as batches:
        return list(itertools.islice(batches, count))


def cached(cache: Path) -> list[str]:
    """Names of the shards in the cache, half-written ones too."""
    return sorted(path.name for path in cache.glob("*/*.tar*") if path.suffix != ".lock")


def assert_same(batches: list[Batch], expected: list[Batch]) -> None:
    for a, b in zip(batches, expected, strict=True):
        assert (a.step, a.keys) == (b.step, b.keys)
        assert torch.equal(a.mix, b.mix)
        assert torch.equal(a.objects, b.objects)


def test_a_folder_is_read_in_position(many: Manifest, cache: Path) -> None:
    for location in (many.folder, str(many.folder), f"file://{many.folder}", many.folder / "manifest.json"):
        assert open_manifest(location) == many
    assert not cache.exists()


def test_over_http(many: Manifest, server: str, cache: Path) -> None:
    manifest = open_manifest(server + "/")
    assert isinstance(manifest, RemoteManifest)
    assert (manifest.digest, manifest.clips, manifest.shards) == (many.digest, many.clips, many.shards)
    assert cached(cache) == []  # nothing is fetched before it is needed
    assert read_clip(manifest, 23).frames == read_clip(many, 23).frames
    assert cached(cache) == ["clips-002.tar"]
    assert_same(take(8, small_config(), manifest), take(8, small_config(), many))


def test_by_command(many: Manifest, cache: Path) -> None:
    manifest = open_manifest(f"pipe:cat {many.folder}/{{}}")
    assert_same(take(8, small_config(), manifest, 20), take(8, small_config(), many, 20))


@pytest.mark.parametrize(
    ("address", "program", "script"),
    [
        # aws s3 cp --quiet s3://bucket/music/NAME -
        ("s3://bucket/music", "aws", '[ "$1 $2 $3 $5" = "s3 cp --quiet -" ] && cat "$FOLDER/${4#s3://bucket/music/}"'),
        # gsutil cat gs://bucket/music/NAME
        ("gs://bucket/music", "gsutil", '[ "$1" = cat ] && cat "$FOLDER/${2#gs://bucket/music/}"'),
    ],
)
def test_out_of_a_bucket(
    many: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, program: str, script: str
) -> None:
    command = tmp_path / "bin" / program  # stands in for the program that talks to the service
    command.parent.mkdir()
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("FOLDER", str(many.folder))
    assert_same(take(8, small_config(), open_manifest(address), 20), take(8, small_config(), many, 20))


@pytest.mark.distributed
def test_a_shard_is_fetched_once_for_all_processes(many: Manifest, cache: Path, tmp_path: Path) -> None:
    manifest = open_manifest(f"pipe:echo {{}} >> {tmp_path}/log; sleep 0.1; cat {many.folder}/{{}}")
    assert_same(take(90, small_config(loader_workers=2), manifest), take(90, small_config(), many))
    fetched = Counter((tmp_path / "log").read_text().split())
    assert set(fetched.values()) == {1}
    assert len(fetched) == 7  # the manifest and all shards


def test_the_cache_keeps_its_limit(
    many: Manifest, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [shard.num_bytes for shard in many.shards]
    limit = int(3.5 * max(sizes))
    monkeypatch.setenv("WDS_CACHE_SIZE", str(limit))
    manifest = open_manifest(f"pipe:echo {{}} >> {tmp_path}/log; cat {many.folder}/{{}}")
    assert isinstance(manifest, RemoteManifest)
    for index in [0, 1, 2, 0, 3, 0, 4, 5, 0]:
        manifest.fetch(index)
        assert sum(path.stat().st_size for path in cache.glob("*/*.tar")) <= limit
        time.sleep(0.02)  # for the file system's clock
    assert cached(cache) == ["clips-000.tar", "clips-004.tar", "clips-005.tar"]
    # shard 0 was used again and again: it stayed, others had to go
    assert (tmp_path / "log").read_text().split()[1:] == [f"clips-00{index}.tar" for index in range(6)]


def test_a_shard_that_the_cache_dropped_is_fetched_again(many: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = open_manifest(f"pipe:cat {many.folder}/{{}}")
    assert isinstance(manifest, RemoteManifest)
    fetch = RemoteManifest.fetch
    calls = []

    def fetch_and_lose(self: RemoteManifest, index: int) -> Path:
        path = fetch(self, index)
        calls.append(index)
        if len(calls) == 1:  # another process makes room between fetching and opening
            path.unlink()
        return path

    monkeypatch.setattr(RemoteManifest, "fetch", fetch_and_lose)
    assert read_clip(manifest, 11).frames == read_clip(many, 11).frames
    assert calls == [1, 1]


@pytest.mark.parametrize("num_bytes", [0, 5000])
def test_a_cached_shard_that_was_cut_off_is_fetched_again(many: Manifest, cache: Path, num_bytes: int) -> None:
    """As by a machine that went down before the file had come to the disk."""
    manifest = open_manifest(f"pipe:cat {many.folder}/{{}}")
    os.truncate(manifest.shard_path(manifest.clips[0]), num_bytes)
    assert read_clip(manifest, 0).frames == read_clip(many, 0).frames
    assert cached(cache) == ["clips-000.tar"]


def test_the_next_shard_is_fetched_in_advance(many: Manifest, cache: Path) -> None:
    manifest = open_manifest(f"pipe:cat {many.folder}/{{}}")
    config = small_config(window=4)
    batches = train_batches(config, manifest)
    batch = next(batches)
    used = {clip.shard for clip in many.clips for keys in batch.keys if clip.key in keys}
    deadline = time.monotonic() + 10
    while len(cached(cache)) <= len(used) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(cached(cache)) > len(used)
    batches.close()


class TestErrors:
    def test_no_manifest(self, server: str) -> None:
        with pytest.raises(
            ValueError, match=rf"no manifest.json at {server}/other/manifest.json .*correct data.shards"
        ):
            open_manifest(f"{server}/other")

    def test_no_server(self) -> None:
        with pytest.raises(ValueError, match=r"no manifest.json at http://127.0.0.1:9/manifest.json"):
            open_manifest("http://127.0.0.1:9")

    def test_missing_shard(self, tmp_path: Path, cache: Path) -> None:
        made = write_shards(tmp_path / "made", [5, 5])
        manifest = open_manifest(f"pipe:cat {made.folder}/{{}} 2> /dev/null")
        (made.folder / "clips-001.tar").unlink()
        read_clip(manifest, 0)
        with pytest.raises(
            ValueError,
            match=r"^shard clips-001.tar cannot be fetched from pipe:cat .* \(exit code 1\); check the address",
        ) as raised:
            read_clip(manifest, 5)
        assert "\n" not in str(raised.value)
        assert cached(cache) == ["clips-000.tar"]

    def test_a_transfer_that_ends_early(self, many: Manifest, cache: Path) -> None:
        manifest = open_manifest(
            f"pipe:case {{}} in *.tar) head -c 5000 {many.folder}/{{}};; *) cat {many.folder}/{{}};; esac"
        )
        with pytest.raises(ValueError, match=r"shard clips-000.tar at .* has 5000 bytes, the manifest says \d+: "):
            read_clip(manifest, 0)
        assert cached(cache) == []

    def test_a_server_that_sends_nothing(
        self, many: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A command that hangs is ended with all that it has started, and tried again."""
        monkeypatch.setattr(transfer, "STALL_S", 0.3)
        monkeypatch.setattr(remote, "ATTEMPTS", 2)
        monkeypatch.setattr(remote.time, "sleep", lambda seconds: None)
        log = tmp_path / "log"
        hang = f"(echo half; sleep 1000 & echo $! >> {tmp_path}/sleeper; wait)"
        source = f"pipe:echo x >> {log}; test $(wc -l < {log}) -ge 2 && cat {many.folder}/{{}} || {hang}"
        manifest = open_manifest(f"pipe:cat {many.folder}/{{}}")
        assert isinstance(manifest, RemoteManifest)
        path = RemoteManifest(**(vars(manifest) | {"source": source})).fetch(2)
        assert path.stat().st_size == many.shards[2].num_bytes
        assert "attempt 1 of 2: shard clips-002.tar cannot be fetched" in caplog.text
        assert "no bytes for 0.3 s" in caplog.text
        sleeper = int((tmp_path / "sleeper").read_text())
        stat = Path(f"/proc/{sleeper}/stat")
        assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"
        with pytest.raises(ValueError, match=r"no manifest.json at .* \(no bytes for 0.3 s\)"):
            open_manifest("pipe:sleep 1000 # {}")

    def test_a_server_that_hangs_over_http(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(transfer, "STALL_S", 0.5)
        with (
            socket.create_server(("127.0.0.1", 0)) as silent,
            pytest.raises(ValueError, match=r"no manifest.json at http://\S+ \(no bytes for 0.5 s\)"),
        ):
            open_manifest(f"http://127.0.0.1:{silent.getsockname()[1]}")

    @pytest.mark.parametrize(
        "page", ["<!DOCTYPE html><html><head><title>Sign in</title></head></html>", "\n<html><TITLE>Sign\n in</TITLE>"]
    )
    def test_a_log_in_page(self, many: Manifest, tmp_path: Path, page: str) -> None:
        (tmp_path / "page").write_text(page)
        with pytest.raises(ValueError, match=r"answers with a web page \(Sign in\) instead of manifest.json"):
            open_manifest(f"pipe:cat {tmp_path}/page # {{}}")
        manifest = open_manifest(f"pipe:case {{}} in *.tar) cat {tmp_path}/page;; *) cat {many.folder}/{{}};; esac")
        with pytest.raises(ValueError, match=r"sends a web page \(Sign in\) instead of shard clips-000.tar"):
            read_clip(manifest, 0)

    def test_something_else_in_the_place_of_the_manifest_is_named_by_its_address(self) -> None:
        with pytest.raises(ValueError, match=r"^pipe:echo nothing # manifest.json is damaged"):
            open_manifest("pipe:echo nothing # {}")

    def test_a_cache_that_cannot_be_used(self, many: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("WDS_CACHE", str(tmp_path / "file"))
        with pytest.raises(ValueError, match=r"the cache of shards \S+ cannot be used .*WDS_CACHE"):
            open_manifest(f"pipe:cat {many.folder}/{{}}")
        monkeypatch.delenv("WDS_CACHE")
        monkeypatch.delenv("HOME", raising=False)
        monkeypatch.setattr("pwd.getpwuid", no_such_user)
        with pytest.raises(ValueError, match=r"there is no home folder .*WDS_CACHE"):
            open_manifest(f"pipe:cat {many.folder}/{{}}")

    def test_a_full_disk_makes_room_in_its_own_cache(
        self, many: Manifest, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        manifest = open_manifest(f"pipe:cat {many.folder}/{{}}")
        assert isinstance(manifest, RemoteManifest)
        for index in range(3):
            manifest.fetch(index)
            time.sleep(0.02)
        monkeypatch.setattr(remote.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
        manifest.fetch(3)
        assert "clips-003.tar" in cached(cache)
        assert "clips-000.tar" not in cached(cache)
        monkeypatch.setattr(RemoteManifest, "_make_room", fail_for_want_of_room)
        with pytest.raises(ValueError, match=r"the cache of shards .*No space left.*WDS_CACHE"):
            manifest.fetch(5)

    def test_a_command_without_a_place_for_the_name(self) -> None:
        with pytest.raises(ValueError, match=r"data.shards is 'pipe:cat x'; a command needs {} where"):
            open_manifest("pipe:cat x")

    def test_trying_again(self, many: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(remote, "ATTEMPTS", 3)
        monkeypatch.setattr(remote.time, "sleep", lambda seconds: None)
        # works at the third time: the first two leave a line each in the log and fail
        manifest = open_manifest(f"pipe:cat {many.folder}/{{}}")
        assert isinstance(manifest, RemoteManifest)
        log = tmp_path / "log"
        command = f"pipe:echo x >> {log}; test $(wc -l < {log}) -ge 3 && cat {many.folder}/{{}}"
        RemoteManifest(**(vars(manifest) | {"source": command})).fetch(2)
        assert log.read_text() == "x\nx\nx\n"
        # ends early, without a word, the first two times
        log.unlink()
        command = f"pipe:echo x >> {log}; test $(wc -l < {log}) -ge 3 && cat {many.folder}/{{}} || echo half"
        RemoteManifest(**(vars(manifest) | {"source": command})).fetch(3)
        assert log.read_text() == "x\nx\nx\n"


def test_addresses() -> None:
    assert file_url("https://example.org/a/", "b.tar") == "https://example.org/a/b.tar"
    assert file_url("gs://bucket/a", "b.tar") == "gs://bucket/a/b.tar"
    assert file_url("s3://bucket/a", "b c.tar") == "pipe:aws s3 cp --quiet 's3://bucket/a/b c.tar' -"
    assert file_url("pipe:get {} now", "b c.tar") == "pipe:get 'b c.tar' now"


def no_such_user(number: int) -> None:
    raise KeyError(number)


def fail_for_want_of_room(self: RemoteManifest, num_bytes: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")
