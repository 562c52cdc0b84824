"""What is damaged, and who reads it: for each kind of file a maker of whole ones and the readers of changed ones."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import io
import json
import random
import shutil
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from ialcms.config import load_config, to_dict
from ialcms.data.clip_reader import BadClip, read_clip
from ialcms.data.manifest import FILE_NAME, Manifest, Shard, read_manifest, write_manifest
from ialcms.data.mix_list import read_mix_list
from ialcms.data.plan import Plan
from ialcms.data.remote import open_manifest
from ialcms.engine.deepspeed_settings import read_settings
from ialcms.evaluation.compare import compare
from ialcms.evaluation.journal import read_journal
from ialcms.evaluation.result_files import read_results
from ialcms.inference import load_model
from ialcms.models.resnet import Backbone
from ialcms.models.weights import load_backbone
from ialcms.monitoring.records import drop_records_after
from ialcms.published import read_published
from ialcms.reading.weights import read_weights
from ialcms.runs import checkpoint, checkpoint_tool
from shards.adopt import adopt, find_tars
from shards.clean import read_detections
from shards.datasets import load_dataset
from shards.entries import read_index
from shards.foreign_clips import Reading
from shards.report import Report
from shards.stats import collect_stats, table_lines
from shards.verify import check_manifest, verify
from shards.video_lists import read_list
from tests.fuzz import mutations
from tests.support import ROOT, small_config
from tests.support.data import small_config as small_data_config
from tests.support.data import write_shards

Reader = Callable[[Path], object]
Kind = tuple[Callable[[random.Random, Path], None], list[Reader]]  # puts a changed file into a folder; who reads it


class Material:
    """Whole files of every kind, made once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.shards = write_shards(root / "shards", [3, 2], splits=("train", "val"))
        self.manifest = json.loads((self.shards.folder / FILE_NAME).read_text())
        config = small_config()
        networks = {"module": _separator(config).state_dict(), "optimizer": {"state": {}, "param_groups": []}}
        state = {"separator": networks, "skipped_steps": 0}
        progress = checkpoint.Progress(4, 1.5, 2, ("bell_000",))
        self.checkpoint = checkpoint.save(root / "checkpoints", config, "digest", state, progress)
        self.meta = json.loads((self.checkpoint / "meta.json").read_text())
        self.weights = root / "weights.pt"
        options = argparse.Namespace(lr=np.float64(0.1), folder=Path("x"))
        torch.save({"state_dict": Backbone(4).state_dict(), "args": options, "epoch": 3}, self.weights)
        self.old_weights = root / "old.pt"
        torch.save(Backbone(4).state_dict(), self.old_weights, _use_new_zipfile_serialization=False)
        self.export = root / "export.pt"
        content = {"format": "ialcms-separator", "version": 1, "program": "0", "step": 3, "config": to_dict(config)}
        torch.save({**content, "separator": networks["module"]}, self.export)


def _separator(config: Any) -> torch.nn.Module:
    from ialcms.models import Separator

    return Separator(config.model, config.audio)


def kinds(material: Material) -> dict[str, Kind]:
    """All kinds of files by name."""
    array = _array_bytes(np.array([[3, 1, 0.9, 5, 4, 35, 30]], np.float32))
    dataset = (ROOT / "configs/datasets/music.yaml").read_text()
    config = (ROOT / "configs/demo.yaml").read_text()
    settings = json.loads((ROOT / "configs/deepspeed/zero2.json").read_text())
    mixes = "mix,clip,box,start\n0,bell_000,0,0\n0,drum_001,1,5\n1,flute_002,0,0\n1,bell_000,0,0\n"
    results = (
        "mix,instrument,clip,box,start,SDR,SIR,SAR,SDRi,SIRi,problem\n"
        "0,bell,bell_000,0,0,1.0,2.0,3.0,4.0,5.0,\n0,drum,drum_001,0,0,1.5,2.0,3.0,4.0,5.0,\n"
        "1,bell,bell_000,0,0,,,,,,silent\n1,flute,flute_002,0,0,,,,,,silent\n"
    )
    summary = {"run": "x", "step": 3, "split": "test", "num_sources": 2, "metrics": "fast", "seconds": 3.0, "hop": 9,
               "manifest": "d", "state_sha256": "s", "mixes": 2}  # fmt: skip
    index = (
        "audio/bell/a_0.wav,frames/bell/a_0,detect/bell/a_0.npy\naudio/drum/b_0.wav,frames/drum/b_0,d/drum/b_0.npy\n"
    )
    score = {"mix": 0, "sources": [dict.fromkeys(("SDR", "SIR", "SAR", "SDRi", "SIRi"), 1.5)], "problem": ""}
    report = Report(3, 2, 9, 4, bad=[{"clip": "a", "instrument": "b", "split": "train", "reason": "c"}]).to_dict()
    videos = {"videos": {"violin": ["aaaaaaaaaaa", "bbbbbbbbbbb"], "flute tuba": ["ccccccccccc"]}}
    options = small_config()
    return {
        "manifest": (lambda rng, out: _put_manifest(rng, out, material), [_use_shards]),
        "shard": (lambda rng, out: _put_shard(rng, out, material.shards, fitting=False), [_use_shards, _adopt]),
        "shard whose checksums fit": (
            lambda rng, out: _put_shard(rng, out, material.shards, fitting=True),
            [_use_shards],
        ),
        "members of a clip": (lambda rng, out: _put_members(rng, out, material.shards), [_use_shards, _adopt]),
        "array": (
            lambda rng, out: _put(out / "a.npy", mutations.bytes_of(rng, array)),
            [_read("a.npy", read_detections)],
        ),
        "configuration": (
            lambda rng, out: _put(out / "c.yaml", mutations.text_of(rng, config).encode("utf-8", "replace")),
            [_read("c.yaml", load_config)],
        ),
        "values of a configuration": (
            lambda rng, out: _put_yaml(out / "c.yaml", mutations.values_of(rng, to_dict(options))),
            [_read("c.yaml", load_config)],
        ),
        "data set": (
            lambda rng, out: _put(out / "d.yaml", mutations.text_of(rng, dataset).encode("utf-8", "replace")),
            [_read("d.yaml", load_dataset)],
        ),
        "DeepSpeed's settings": (
            lambda rng, out: _put(out / "z.json", mutations.json_of(rng, settings)),
            [_read("z.json", lambda path: read_settings(_with_settings(options, path), 2))],
        ),
        "checkpoint's meta": (
            lambda rng, out: _put_checkpoint(rng, out, material, "meta.json"),
            [_use_checkpoint],
        ),
        "checkpoint's state": (
            lambda rng, out: _put_checkpoint(rng, out, material, "state.pt"),
            [_use_checkpoint],
        ),
        "weights": (
            lambda rng, out: _put(out / "w.pt", mutations.bytes_of(rng, material.weights.read_bytes())),
            [_read("w.pt", lambda path: load_backbone(Backbone(4), str(path))), _read("w.pt", read_published)],
        ),
        "weights of old": (
            lambda rng, out: _put(out / "w.pt", mutations.bytes_of(rng, material.old_weights.read_bytes())),
            [_read("w.pt", lambda path: load_backbone(Backbone(4), str(path)))],
        ),
        "pickle in weights": (
            lambda rng, out: _put_pickle(rng, out / "w.pt", material.weights),
            [_read("w.pt", lambda path: load_backbone(Backbone(4), str(path))), _read("w.pt", read_weights)],
        ),
        "export": (
            lambda rng, out: _put_pickle(rng, out / "e.pt", material.export),
            [_read("e.pt", lambda path: load_model(path, "cpu"))],
        ),
        "list of mixes": (
            lambda rng, out: _put(out / "m.csv", mutations.text_of(rng, mixes).encode("utf-8", "replace")),
            [_read("m.csv", lambda path: read_mix_list(path, material.shards))],
        ),
        "results": (
            lambda rng, out: _put_results(rng, out, results, summary),
            [read_results, lambda out: compare(out, out)],
        ),
        "index": (
            lambda rng, out: _put(out / "test_solo_clip.csv", mutations.text_of(rng, index).encode("utf-8", "replace")),
            [read_index],
        ),
        "list of videos": (
            lambda rng, out: _put(out / "v.json", mutations.json_of(rng, videos)),
            [_read("v.json", lambda path: read_list(path, "music", {}))],
        ),
        "journal": (
            lambda rng, out: _put_lines(rng, out / "a.jsonl", [{"key": "k"}, score, {**score, "mix": 1}]),
            [lambda out: read_journal(out, "k")],
        ),
        "metrics": (
            lambda rng, out: _put_lines(rng, out / "m.jsonl", [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]),
            [_read("m.jsonl", lambda path: drop_records_after(path, 1))],
        ),
        "records of a verification": (
            lambda rng, out: _put_record(rng, out, material.shards),
            [lambda out: [found.lines() for found in verify(read_manifest(out))]],
        ),
        "report": (
            lambda rng, out: _put(out / "r.json", mutations.json_of(rng, report)),
            [_read("r.json", lambda path: Report.read(path).lines())],
        ),
    }  # fmt: skip


def _read(name: str, reader: Callable[[Path], object]) -> Reader:
    return lambda out: reader(out / name)


def _put(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _put_yaml(path: Path, values: Any) -> None:
    path.write_text(yaml.safe_dump(values), errors="replace")


def _put_manifest(rng: random.Random, out: Path, material: Material) -> None:
    shutil.copytree(material.shards.folder, out, dirs_exist_ok=True)
    (out / FILE_NAME).write_bytes(mutations.json_of(rng, material.manifest))


def _put_shard(rng: random.Random, out: Path, whole: Manifest, fitting: bool) -> None:
    """A damaged shard; fitting: with the checksums and sizes of what it has become."""
    shutil.copytree(whole.folder, out, dirs_exist_ok=True)
    name = whole.shards[0].name
    raw = mutations.bytes_of(rng, (out / name).read_bytes())
    (out / name).write_bytes(raw)
    if fitting:
        _fit(out, whole, {whole.shards[0].name: raw})


def _fit(out: Path, whole: Manifest, changed: dict[str, bytes]) -> None:
    shards, clips = list(whole.shards), list(whole.clips)
    for index, shard in enumerate(shards):
        raw = changed.get(shard.name)
        if raw is not None:
            shards[index] = Shard(shard.name, len(raw), hashlib.sha256(raw).hexdigest(), shard.num_clips)
            clips = [
                dataclasses.replace(
                    clip,
                    offset=min(clip.offset, len(raw)),
                    size=len(raw[clip.offset : clip.offset + clip.size]),
                    crc32=zlib.crc32(raw[clip.offset : clip.offset + clip.size]),
                )
                if clip.shard == index
                else clip
                for clip in clips
            ]
    write_manifest(dataclasses.replace(whole, folder=out, shards=tuple(shards), clips=tuple(clips)))


def _put_members(rng: random.Random, out: Path, whole: Manifest) -> None:
    """A tar that is whole, with damaged members, links among them, or headers that lie."""
    shutil.copytree(whole.folder, out, dirs_exist_ok=True)
    name = whole.shards[1].name
    content, clips = io.BytesIO(), []
    with tarfile.open(out / name) as archive:
        members = [(member.name, archive.extractfile(member).read()) for member in archive]  # type: ignore[union-attr]
    chosen = rng.randrange(len(members))
    with tarfile.open(
        fileobj=content, mode="w", format=rng.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    ) as archive:
        for number, (member, data) in enumerate(members):
            info = tarfile.TarInfo(member)
            if number == chosen:
                match rng.randrange(6):
                    case 0:
                        info.type, info.linkname, data = rng.choice((b"1", b"2", b"5", b"6", b"S")), "/etc/passwd", b""
                    case 1:
                        info.name = member.replace(".", rng.choice(("", "..", "/", ".é.", "." + "x" * 200 + ".")), 1)
                    case 2:
                        info.pax_headers = {"size": rng.choice(("-1", str(2**64), "x", "1" * 5000)), "path": member}
                    case _:
                        data = mutations.bytes_of(rng, data)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    raw = content.getvalue()
    (out / name).write_bytes(raw)
    starts = [clip for clip in whole.clips if clip.shard == 1]
    half = next(
        (at for at in range(0, len(raw), 512) if raw[at : at + len(starts[1].key)] == starts[1].key.encode()), 0
    )
    ranges = [(0, half), (half, len(raw) - 1024 - half)]
    for clip in whole.clips:
        if clip.shard == 1:
            offset, size = ranges[starts.index(clip)]
            size = max(size, 0)
            clip = dataclasses.replace(clip, offset=offset, size=size, crc32=zlib.crc32(raw[offset : offset + size]))
        clips.append(clip)
    shard = Shard(name, len(raw), hashlib.sha256(raw).hexdigest(), len(starts))
    write_manifest(dataclasses.replace(whole, folder=out, shards=(whole.shards[0], shard), clips=tuple(clips)))


def _put_checkpoint(rng: random.Random, out: Path, material: Material, name: str) -> None:
    folder = out / material.checkpoint.name
    shutil.copytree(material.checkpoint, folder)
    if name == "meta.json":
        raw = mutations.json_of(rng, material.meta)
        try:
            values = json.loads(raw)
        except (ValueError, RecursionError):
            values = None
        if isinstance(values, dict) and rng.random() < 0.8:  # or its own checksum would say all
            raw = json.dumps(checkpoint.sealed(values)).encode()
        (folder / name).write_bytes(raw)
        return
    if rng.random() < 0.5:
        _put_pickle(rng, folder / name, material.checkpoint / name)
    else:
        content = torch.load(material.checkpoint / name, weights_only=True)
        torch.save(mutations.values_of(rng, content), folder / name)
    raw = (folder / name).read_bytes()
    meta = material.meta | {"state_bytes": len(raw), "state_sha256": hashlib.sha256(raw).hexdigest()}
    (folder / "meta.json").write_text(json.dumps(checkpoint.sealed(meta)))


def _put_pickle(rng: random.Random, path: Path, whole: Path) -> None:
    """A file of torch.save with a changed pickle in an archive that is in order."""
    import zipfile

    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.infolist():
            raw = old.read(entry)
            if entry.filename.endswith("data.pkl") or rng.random() < 0.02:
                raw = mutations.bytes_of(rng, raw)
            new.writestr(entry.filename, raw, rng.choice((zipfile.ZIP_STORED,) * 9 + (zipfile.ZIP_DEFLATED,)))


def _put_record(rng: random.Random, out: Path, whole: Manifest) -> None:
    shutil.copytree(whole.folder, out, dirs_exist_ok=True)
    (out / ".verifying").mkdir()
    stat = (out / whole.shards[0].name).stat()
    found = {"shard": "a", "problems": ["b"], "bad_clips": {"c": "d"}, "num_bytes": 3, "sha256": "e"}
    state = [whole.digest, stat.st_size, stat.st_mtime_ns, stat.st_ino]
    record = {"state": state, "found": mutations.values_of(rng, found)}
    raw = json.dumps(record).encode() if rng.random() < 0.8 else mutations.json_of(rng, record)
    (out / ".verifying" / f"{whole.shards[0].name}.json").write_bytes(raw)


def _put_results(rng: random.Random, out: Path, mixes: str, summary: dict[str, Any]) -> None:
    is_summary = rng.random() < 0.5
    text = mixes if is_summary else mutations.text_of(rng, mixes)
    (out / "mixes.csv").write_bytes(text.encode("utf-8", "replace"))
    raw = mutations.json_of(rng, summary) if is_summary else json.dumps(summary).encode()
    (out / "summary.json").write_bytes(raw)


def _put_lines(rng: random.Random, path: Path, rows: list[dict[str, Any]]) -> None:
    lines = [json.dumps(row).encode() for row in rows]
    at = rng.randrange(len(lines))
    lines[at] = mutations.json_of(rng, rows[at]).replace(b"\n", b" ")
    path.write_bytes(b"\n".join(lines) + b"\n")


def _with_settings(config: Any, path: Path) -> Any:
    return dataclasses.replace(config, train=dataclasses.replace(config.train, deepspeed_config=str(path)))


def _use_shards(folder: Path) -> None:
    """What training, `verify` and `stats` do with a folder of shards."""
    refusal: ValueError | None = None
    try:
        manifest = open_manifest(folder)
        config = small_data_config()
        for index in range(len(manifest.clips)):
            try:
                clip = read_clip(manifest, index)
                clip.window(0, 310)
                for row in range(min(len(clip.detections), 4)):
                    clip.picture(row, 20)
            except BadClip:
                pass
        Plan(manifest, config.data, config.audio, 0, 4).mix(0, 0)
    except ValueError as error:
        refusal = error
    manifest = read_manifest(folder, check_shards=False)
    check_manifest(manifest)
    for found in verify(manifest):
        found.lines()
    table_lines(collect_stats(manifest))
    if refusal is not None:
        raise refusal


def _adopt(folder: Path) -> None:
    (folder / FILE_NAME).unlink()
    adopt(find_tars([str(folder)]), Reading(split="train", pattern="(?P<instrument>[a-z]+)"))


def _use_checkpoint(root: Path) -> None:
    """What a resume, `evaluate`, `export` and `checkpoint` do with one."""
    folder = next(root.iterdir())
    checkpoint.newest(root)
    refusals = []
    for use in (
        lambda: checkpoint.load(folder, small_config(), "digest"),
        lambda: load_model(folder, "cpu"),
        lambda: checkpoint_tool.show(folder),
        lambda: checkpoint_tool.export(folder, root / "out.pt"),
        lambda: checkpoint.newest_intact(root),
    ):
        try:
            use()
        except ValueError as error:
            refusals.append(error)
    for error in refusals:
        if "\n" in str(error):
            raise error


def _array_bytes(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()
