"""The verbs of `ialcms data`: clips, detect, clean, index, pack, verify, adopt, stats."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ialcms.data.manifest import FILE_NAME, SPLITS
from ialcms.overwriting import lies_in, refuse_overwriting
from shards.clean import RULES
from shards.clean_tree import clean_tree
from shards.cli_adopt import add_adopt
from shards.cli_common import add_verb, positive, print_some
from shards.cli_detect import add_detect
from shards.cli_stats import add_stats
from shards.cli_verify import add_verify
from shards.cli_video import add_clips
from shards.datasets import Dataset, read_video_list
from shards.encode import AUDIO_FORMATS, EncodeOptions
from shards.entries import Entry, check_keys, csv_name, parse_path_map, read_index, write_index
from shards.index import TreeLayout, drop_missing, scan_tree, shared_videos, split_by_clip, split_by_video
from shards.other_class import MOST, count_other_class, refuse_other_class
from shards.pack import REPORT_NAME, PackOptions, pack
from shards.pack_parts import Part, join_parts, pack_part
from shards.report import Report
from shards.tree_dataset import choose_dataset, record_dataset


def add_parsers(subparsers: Any) -> None:
    """Add the verbs to an argparse subparsers object; each sets `func`, a callable(args) -> exit code."""
    add_clips(subparsers)
    add_detect(subparsers)
    _add_clean(subparsers)
    _add_index(subparsers)
    _add_pack(subparsers)
    add_verify(subparsers)
    add_adopt(subparsers)
    add_stats(subparsers)


def _add_layout_arguments(parser: argparse.ArgumentParser) -> None:
    layout = TreeLayout()
    parser.add_argument("tree", type=Path, help="folder of the prepared tree")
    for name, default in (("audio", layout.audio), ("frames", layout.frames), ("detections", layout.detections)):
        parser.add_argument(f"--{name}", default=default, help="its folder in the tree (default: %(default)s)")


def _add_map_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--map", action="append", default=[], metavar="OLD=NEW", help="replace the beginning of paths; can be repeated"
    )


def _add_dataset_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dataset", help="YAML file, or name of one in configs/datasets (default: the one recorded in the tree, music)"
    )


def _add_max_other_class_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-other-class",
        type=float,
        default=MOST,
        metavar="SHARE",
        help="of confident boxes of another class than their instrument's, past which to stop (default: %(default)s)",
    )


def _add_max_bad_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-bad-fraction",
        type=float,
        default=PackOptions().max_bad_fraction,
        help="share of clips with broken files past which to stop (default: %(default)s)",
    )


def _add_clean(subparsers: Any) -> None:
    parser = add_verb(
        subparsers,
        "clean",
        "write cleaned detections, and say which rule rejects which boxes and clips",
        "'pack' cleans too: this verb is for a look at the figures (--dry-run), or for other programs.",
        "ialcms data clean data/music --dataset music --rule music --out data/music/solo_detect_clean",
    )
    _add_layout_arguments(parser)
    _add_dataset_argument(parser)
    _add_max_bad_argument(parser)
    _add_max_other_class_argument(parser)
    parser.add_argument("--rule", choices=RULES, default="music", help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, help="folder of the new files (default: TREE/solo_detect_<rule>)")
    parser.set_defaults(func=_clean)


def _clean(args: argparse.Namespace) -> int:
    tree = scan_tree(args.tree, TreeLayout(args.audio, args.frames, args.detections), args.jobs)
    out = args.out or args.tree / f"solo_detect_{args.rule}"
    instruments = {entry.instrument for entry in tree.entries}
    written_to = [out, *(out / name for name in instruments)]
    for folder in (args.tree / name for name in (args.audio, args.frames, args.detections)):
        # also by '..' or a link, and a folder of an instrument in it may be a link, too
        if lies_in(folder, out) or any(lies_in(path, folder) for path in written_to):
            raise ValueError(f"--out {out} is, holds or lies in {folder}, which is read; give another folder")
    dataset = _dataset(args.dataset, [args.tree], tree.entries)
    written = None if args.dry_run else out
    if args.rule == "music":
        found = count_other_class(tree.entries, dataset, args.jobs)
        if args.dry_run and found.share > args.max_other_class:
            print(f"{found}; is it the right one (--dataset)?", file=sys.stderr)
        elif not args.dry_run:
            refuse_other_class(found, args.max_other_class)
    report = clean_tree(
        tree.entries, written, args.rule, dataset=dataset, jobs=args.jobs, max_bad_fraction=args.max_bad_fraction
    )
    _print_report(report)
    print(f"would write to {out}" if args.dry_run else f"written to {out}")
    return 0


def _dataset(given: str | None, folders: Sequence[Path], entries: Sequence[Entry]) -> Dataset:
    """The data set of a tree, which is printed."""
    chosen = choose_dataset(given, folders, {entry.instrument for entry in entries})
    print(chosen)
    return chosen.dataset


def _add_index(subparsers: Any) -> None:
    parser = add_verb(
        subparsers,
        "index",
        "write {train,val,test}_solo_clip.csv for a prepared tree",
        "Clips without sound, frames or detections are left out and counted. --from-csv takes over a published split\n"
        "instead of drawing one.",
        "ialcms data index data/music --dataset music --by video",
    )
    _add_layout_arguments(parser)
    _add_dataset_argument(parser)
    parser.add_argument("--out", type=Path, help="folder of the CSV files (default: the tree)")
    parser.add_argument(
        "--by", choices=("video", "clip"), default="video", help="video: no video in two splits; clip: as published"
    )
    parser.add_argument("--val-fraction", type=float, default=0.2, help="share of clips (default: %(default)s)")
    parser.add_argument("--test-fraction", type=float, default=0.0, help="besides the test videos (default: none)")
    parser.add_argument("--test-videos", type=Path, help="file of video ids, one a line (default: the data set's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--from-csv", type=Path, metavar="DIR", help="read the split from the CSV files in DIR")
    _add_map_argument(parser)
    parser.set_defaults(func=_index)


def _index(args: argparse.Namespace) -> int:
    out = args.out or args.tree
    if args.from_csv is not None:
        lists = [args.from_csv / csv_name(split) for split in SPLITS]
        refuse_overwriting([out / path.name for path in lists], lists, "give another folder with --out")
        entries, missing = drop_missing(read_index(args.from_csv, args.tree, parse_path_map(args.map)), args.jobs)
        print_some("listed clip without its files", [str(entry.audio) for entry in missing])
        if not entries:
            raise ValueError(
                f"none of the clips in {args.from_csv} has its files, like {missing[0].audio}; "
                "correct the paths with --map OLD=NEW"
            )
    else:
        if args.map:
            raise ValueError("--map changes the paths of CSV files; name their folder with --from-csv")
        tree = scan_tree(args.tree, TreeLayout(args.audio, args.frames, args.detections), args.jobs)
        for kind, clips in tree.missing.items():
            print_some(f"clip without {kind}", clips)
        print_some("instrument without a complete clip", tree.empty)
        dataset = _dataset(args.dataset, [args.tree], tree.entries)
        videos = read_video_list(args.test_videos) if args.test_videos else dataset.test_videos
        split = split_by_video if args.by == "video" else split_by_clip
        entries = split(tree.entries, args.val_fraction, args.test_fraction, test_videos=videos, seed=args.seed)
        if not any(entry.split == "test" for entry in entries):
            print("no test clips: give --test-videos or --test-fraction", file=sys.stderr)
    check_keys(entries)
    print("\n".join(_split_lines(entries)))
    leak = shared_videos(entries, "train", "val") | shared_videos(entries, "train", "test")
    if leak:
        print(f"{len(leak)} training videos also have clips in validation or test: that split leaks", file=sys.stderr)
    if args.dry_run:
        print(f"would write to {out}")
    else:
        print("\n".join(str(path) for path in write_index(entries, out)))
        if args.dataset is not None:
            record_dataset(out, args.dataset)
    return 0


def _add_pack(subparsers: Any) -> None:
    parser = add_verb(
        subparsers,
        "pack",
        "clean the clips of index files and pack them into WebDataset shards",
        "The same input gives the same bytes. A run that was killed resumes when it is started again.",
        "ialcms data pack data/music --out data/music/shards --dataset music --jobs 8",
    )
    defaults = EncodeOptions()
    parser.add_argument("index", type=Path, help="folder with {train,val,test}_solo_clip.csv")
    parser.add_argument("--root", type=Path, help="folder that relative paths count from (default: the CSVs' folder)")
    _add_map_argument(parser)
    _add_dataset_argument(parser)
    _add_max_bad_argument(parser)
    _add_max_other_class_argument(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder of the shards and their manifest")
    parser.add_argument("--clean", choices=RULES, default="music", help="cleaning rule (default: %(default)s)")
    parser.add_argument(
        "--audio-format", choices=AUDIO_FORMATS, default=defaults.audio_format, help="(default: %(default)s)"
    )
    parser.add_argument(
        "--sample-rate", type=positive, default=defaults.sample_rate, help="of the sounds (default: %(default)s)"
    )
    parser.add_argument("--crops-only", action="store_true", help="store the kept boxes' pictures, not whole frames")
    parser.add_argument(
        "--longest-side", type=int, default=0, metavar="PIXELS", help="scale larger pictures down (default: keep them)"
    )
    parser.add_argument("--jpeg-quality", type=int, default=defaults.jpeg_quality, help="(default: %(default)s)")
    parser.add_argument(
        "--shard-mb", type=float, default=PackOptions().shard_mb, help="size of a shard, 10^6 bytes (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the order of the clips")
    parts = parser.add_mutually_exclusive_group()
    parts.add_argument("--part", type=Part.parse, metavar="N/COUNT", help="pack one of COUNT parts only; N from 0")
    parts.add_argument("--join", type=positive, metavar="COUNT", help="join the parts, when all are packed")
    parser.set_defaults(func=_pack)


def _pack(args: argparse.Namespace) -> int:
    entries = read_index(args.index, args.root, parse_path_map(args.map))
    folders = [args.index, entries[0].tree]
    dataset = Dataset() if args.clean == "none" else _dataset(args.dataset, folders, entries)
    options = PackOptions(
        encode=EncodeOptions(
            audio_format=args.audio_format,
            sample_rate=args.sample_rate,
            crops_only=args.crops_only,
            longest_side=args.longest_side,
            jpeg_quality=args.jpeg_quality,
            clean=args.clean,
            dataset=dataset,
        ),
        shard_mb=args.shard_mb,
        seed=args.seed,
        max_bad_fraction=args.max_bad_fraction,
        max_other_class=args.max_other_class,
    )
    if args.dry_run:
        print("\n".join(_split_lines(entries)))
        print_some("listed clip without its files", [str(entry.audio) for entry in drop_missing(entries, args.jobs)[1]])
        print(f"would pack into {args.out}")
        return 0
    complete = (args.out / FILE_NAME).is_file()
    if args.part is not None:
        manifest, report = pack_part(entries, args.out, args.part, options=options, jobs=args.jobs)
    elif args.join is not None:
        manifest, report = join_parts(entries, args.out, args.join, options=options)
    else:
        manifest, report = pack(entries, args.out, options, jobs=args.jobs)
    if complete:
        print(f"{args.out} is complete already; to pack it anew, remove its {FILE_NAME} and shards, or the folder")
    _print_report(report, f" (all in {manifest.folder / REPORT_NAME})")
    size = sum(shard.num_bytes for shard in manifest.shards)
    print(f"{len(manifest.clips)} clips in {len(manifest.shards)} shards, {size / 1e6:.1f} MB, in {manifest.folder}")
    return 0


def _split_lines(entries: Sequence[Entry]) -> list[str]:
    """Clips and videos per split, clips per instrument."""
    lines = []
    for split in SPLITS:
        of_split = [entry for entry in entries if entry.split == split]
        instruments = Counter(entry.instrument for entry in of_split)
        shown = ", ".join(f"{name} {count}" for name, count in sorted(instruments.items()))
        lines.append(f"{split}: {len(of_split)} clips of {len({e.video for e in of_split})} videos ({shown or 'none'})")
    return lines


def _print_report(report: Report, where: str = "") -> None:
    print("\n".join(report.lines()))
    named = [f"{item['instrument']}/{item['clip']}: {item['reason']}" for item in report.bad]
    print_some("clip with broken files", named, where)
    named = [f"{item['instrument']}/{item['clip']}: {item['reason']}" for item in report.clipped]
    print_some("clip that is too loud", named, where)
