"""The verb of `ialcms data` that finds objects in a prepared tree's frames, and trains the detector: detect."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ialcms.overwriting import refuse_overwriting
from shards.cli_common import add_verb, positive, print_some
from shards.datasets import load_dataset
from shards.published_detector.settings import POOLINGS, PublishedSettings, option
from shards.tree_dataset import DEFAULT, record_dataset, recorded_name

if TYPE_CHECKING:
    from shards.detect import Detected

# What runs networks is imported when it is needed: the other verbs start without torch.

_PUBLISHED = [field.name for field in dataclasses.fields(PublishedSettings) if field.name != "min_score"]


def add_detect(subparsers: Any) -> None:
    parser = add_verb(
        subparsers,
        "detect",
        "find objects in all frames of a tree, or train the detector that does (--train)",
        "Faster R-CNN: the published one, which Co-Separation shares as faster_rcnn_1_19_6984.pth and which is known\n"
        "by its content, or torchvision's. Detections go to TREE/solo_detect; clips that have some are left as they\n"
        "are. With --coco, the boxes are another program's; with --whole-frame, each is a whole frame. With --train,\n"
        "a detector learns boxes in the CSV form of Open Images and is written to --weights.",
        "ialcms data detect data/music --weights faster_rcnn_1_19_6984.pth",
        "ialcms data detect --convert faster_rcnn_1_19_6984.pth detector.pt",
        "ialcms data detect data/music --coco boxes.json --dataset music",
        "ialcms data detect data/mine --whole-frame",
        "ialcms data detect --train boxes.csv --images images --weights detector.pt --init coco.pth --dataset music",
    )
    parser.add_argument("tree", type=Path, nargs="?", help="folder of the prepared tree, with frames")
    parser.add_argument("--weights", type=Path, help="file of the detector: read, or written by --train")
    parser.add_argument(
        "--dataset", help="YAML file or name; its 'classes' (default: the one recorded in the tree, music)"
    )
    parser.add_argument("--backbone", default="resnet50", help="resnet50, mobilenet or small (default: %(default)s)")
    parser.add_argument("--devices", default="auto", help="auto, cpu, or a list like cuda:0,cuda:1 (default: all GPUs)")
    parser.add_argument("--min-score", type=float, default=0.3, help="of boxes to be written (default: %(default)s)")
    parser.add_argument("--batch", type=positive, help="frames at a time (default: 16; in training 8)")
    parser.add_argument(
        "--every", type=positive, default=1, metavar="N", help="look at frames 1, 1 + N, 1 + 2 N, ... (default: all)"
    )
    parser.add_argument("--whole-frame", action="store_true", help="no detector: the box of a frame is the whole frame")
    parser.add_argument(
        "--convert",
        type=Path,
        nargs=2,
        metavar=("IN", "OUT"),
        help="write a detector's file in the project's own format",
    )
    parser.add_argument(
        "--coco",
        type=Path,
        nargs="+",
        metavar="BOXES.JSON",
        help="boxes of another program, as COCO's annotations or results",
    )
    _add_published_options(parser)
    _add_training_options(parser)
    parser.set_defaults(func=_detect)


def _add_published_options(parser: argparse.ArgumentParser) -> None:
    published = parser.add_argument_group("the published detector")
    defaults = PublishedSettings()
    published.add_argument("--pooling", choices=POOLINGS, help="as the weights were trained with (default: legacy)")
    for name, kind, what in (
        ("max_overlap", float, "of two boxes of a class"),
        ("short_side", int, "pixels that frames are scaled to"),
        ("long_side", int, "pixels that a scaled frame has at most"),
        ("candidates", int, "boxes among which proposals are chosen"),
        ("proposals", int, "per frame"),
        ("proposal_overlap", float, "of two proposals"),
    ):
        published.add_argument(option(name), type=kind, help=f"{what} (default: {getattr(defaults, name)})")


def _add_training_options(parser: argparse.ArgumentParser) -> None:
    training = parser.add_argument_group("training")
    training.add_argument("--train", type=Path, metavar="BOXES.CSV", help="with columns ImageID, LabelName, XMin, ...")
    training.add_argument("--images", type=Path, help="folder of <ImageID>.jpg or .png")
    training.add_argument("--class-names", type=Path, help="CSV of label ids and names, as Open Images has it")
    training.add_argument("--init", type=Path, help="weights to start from, as far as they fit")
    training.add_argument("--steps", type=positive, default=20_000, help="(default: %(default)s)")
    training.add_argument("--learning-rate", type=float, default=1e-4, help="(default: %(default)s)")
    training.add_argument(
        "--save-every", type=positive, default=500, metavar="STEPS", help="a killed run resumes from (%(default)s)"
    )
    training.add_argument("--seed", type=int, default=0)


def _detect(args: argparse.Namespace) -> int:
    ways = {"--train": args.train, "--convert": args.convert, "--coco": args.coco, "--whole-frame": args.whole_frame}
    given = [name for name, value in ways.items() if value]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)}: give one of them")
    if args.tree is not None and given and given[0] not in ("--coco", "--whole-frame"):
        raise ValueError(f"{given[0]} needs no tree, but {args.tree} is given; detect in it by itself")
    unused = [name for name in _published(args) if given and (given, name) != (["--convert"], "pooling")]
    if unused:
        raise ValueError(f"{option(unused[0])} does not go with {given[0]}; leave it out")
    if args.convert is not None:
        return _convert(args)
    if args.train is not None:
        return _train(args)
    if args.tree is None:
        raise ValueError("name the tree to detect in, or train with --train and --images")
    return (_whole_frames if args.whole_frame else _detect_in_tree if args.coco is None else _take_boxes)(args)


def _detect_in_tree(args: argparse.Namespace) -> int:
    from shards.detect import DetectOptions, available_devices, clips_to_detect, detect_tree, open_detector

    options = DetectOptions(
        _weights(args),
        args.backbone,
        _class_names(_tree_dataset(args)),
        min_score=args.min_score,
        batch=args.batch or 16,
        every=args.every,
        published=tuple(_published(args).items()),
    )
    clips = clips_to_detect(args.tree)
    devices = available_devices(args.devices, args.jobs)
    waiting = sum(not clip.detections.is_file() for clip in clips)
    print(open_detector(options).description)
    print(f"{len(clips)} clips, {waiting} of them without detections, on {', '.join(devices)}")
    if args.dry_run:
        return 0
    found = detect_tree(clips, args.tree, options, devices=devices)
    _record(args)
    return _print_detected(found, len(clips))


def _whole_frames(args: argparse.Namespace) -> int:
    from shards.detect import clips_to_detect
    from shards.whole_frames import detect_whole_frames

    if args.weights is not None:
        raise ValueError("--whole-frame needs no detector; leave out --weights")
    clips = clips_to_detect(args.tree)
    name = args.dataset or recorded_name(args.tree)
    dataset = None if name is None else load_dataset(name)
    print(f"{len(clips)} clips; classes: {'the instruments' if dataset is None else dataset.name}")
    if args.dry_run:
        return 0
    found = detect_whole_frames(clips, args.tree, dataset, every=args.every, jobs=args.jobs)
    _record(args)
    return _print_detected(found, len(clips))


def _tree_dataset(args: argparse.Namespace) -> str:
    """The name of the data set that is given or recorded in the tree, or the default."""
    return args.dataset or recorded_name(args.tree) or DEFAULT


def _record(args: argparse.Namespace) -> None:
    if args.dataset is not None:
        record_dataset(args.tree, args.dataset)


def _print_detected(found: Sequence[Detected], num_clips: int) -> int:
    print_some("clip with a problem", [f"{result.clip}: {result.problem}" for result in found if result.problem])
    print(
        f"{sum(result.num_boxes for result in found)} boxes in {len(found)} clips; "
        f"{num_clips - len(found)} had detections already"
    )
    return 0


def _published(args: argparse.Namespace) -> dict[str, Any]:
    """The given settings of the published detector, by name."""
    return {name: getattr(args, name) for name in _PUBLISHED if getattr(args, name) is not None}


def _weights(args: argparse.Namespace) -> Path:
    if args.weights is None:
        raise ValueError("name the detector's file with --weights, like faster_rcnn_1_19_6984.pth of Co-Separation")
    return Path(args.weights)


def _convert(args: argparse.Namespace) -> int:
    from shards.detector import load_detector, save_detector

    source, target = args.convert
    if target.exists() and source.exists() and target.samefile(source):
        raise ValueError(f"--convert {source} {target}: that is one file; write to another")
    detector = load_detector(
        source,
        args.backbone,
        _class_names(args.dataset or DEFAULT),
        pooling=args.pooling,
    )
    print(detector.description)
    if args.dry_run:
        print(f"would write {target}")
        return 0
    save_detector(detector, target)
    print(f"written to {target}: {len(detector.classes)} classes, {', '.join(detector.classes)}")
    return 0


def _take_boxes(args: argparse.Namespace) -> int:
    from shards.coco_boxes import read_coco, write_coco
    from shards.detect import clips_to_detect

    if args.weights is not None or args.every != 1:
        raise ValueError("--coco takes the boxes as they are; leave out --weights and --every")
    clips = clips_to_detect(args.tree)
    boxes = read_coco(args.coco, _class_names(_tree_dataset(args)), args.min_score)
    left_out = ", ".join(f"{count} {what}" for what, count in boxes.left_out.items() if count)
    print(f"{boxes.num_boxes} boxes of {len(boxes.clips)} clips; left out: {left_out or 'nothing'}")
    if args.dry_run:
        return 0
    result = write_coco(boxes, clips, args.tree)
    _record(args)
    print_some("clip of the tree without pictures in the files", result.without)
    print_some("clip of the files that is not in the tree", result.unknown)
    print(f"{result.num_boxes} boxes in {result.num_clips} clips; {result.num_kept} had detections already")
    return 0


def _class_names(dataset: str) -> tuple[str, ...]:
    """Of the classes 1, 2, ... that a detector distinguishes."""
    classes = load_dataset(dataset).classes
    if not classes or sorted(classes) != list(range(1, len(classes) + 1)):
        raise ValueError(
            f"data set '{dataset}' names the classes {', '.join(map(str, sorted(classes))) or 'none'}; a detector "
            "needs all of 1, 2, ... under 'classes' in the YAML file (--dataset)"
        )
    return tuple(classes[number] for number in sorted(classes))


def _train(args: argparse.Namespace) -> int:
    from shards.detect import available_devices
    from shards.detector_training import TrainingOptions, train_detector
    from shards.open_images import read_boxes, read_class_names

    if args.images is None:
        raise ValueError("--train needs the folder of pictures, --images")
    weights = _weights(args)
    if weights.is_dir():
        raise ValueError(f"--weights {weights} is a folder; name a file, like {weights / 'detector.pt'}")
    dataset = args.dataset or DEFAULT
    given = [path for path in (args.train, args.class_names, args.init, Path(dataset)) if path is not None]
    refuse_overwriting([weights], given, "name another file for --weights")
    classes = _class_names(dataset)
    names = read_class_names(args.class_names) if args.class_names else None
    examples, left_out = read_boxes(args.train, args.images, classes, names=names)
    counts = ", ".join(f"{count} {what}" for what, count in left_out.items() if count)
    print(f"{sum(len(e.labels) for e in examples)} boxes in {len(examples)} pictures; left out: {counts or 'nothing'}")
    if args.dry_run:
        return 0
    options = TrainingOptions(
        backbone=args.backbone,
        init=args.init,
        steps=args.steps,
        batch=args.batch or 8,
        learning_rate=args.learning_rate,
        seed=args.seed,
        save_every=args.save_every,
    )
    device = available_devices(args.devices, 1)[0]
    trained = train_detector(
        examples, classes, weights, options=options, device=device, loader_workers=args.jobs if args.jobs > 1 else 0
    )
    print_some("picture that cannot be decoded", sorted(map(str, trained.unreadable)))
    print(f"detector written to {weights}")
    return 0
