"""Separating a file: a video or sound and a trained run in, stems and videos out."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from ialcms.config import DataConfig, ProtocolConfig
from ialcms.files import write_whole
from ialcms.inference.earlier import (
    PAGE,
    RECORD,
    claim_names,
    end_claim,
    names_of_earlier,
    refuse_foreign,
    remove_earlier,
)
from ialcms.inference.frames import Frames, TimedFrame, has_pictures
from ialcms.inference.listening_page import SeparatedFiles, write_listening_page
from ialcms.inference.model import Model, load_model
from ialcms.inference.objects import Box, Click, SoundObject, object_in_video, object_of_picture, spread_over
from ialcms.inference.overlay import Overlay, still_frames, write_overlays
from ialcms.inference.sound import SoundInfo, measure_sound, open_stem, read_blocks
from ialcms.inference.stems import ABOVE, BEST, Localisation, StemMaker
from ialcms.lease import Lease
from ialcms.media.damage import Damage
from ialcms.models.arithmetic import set_arithmetic
from ialcms.names import cut_name
from ialcms.overwriting import refuse_overwriting
from ialcms.progress import Progress

_NAME_BYTES = 200  # of a stem's name; file systems take 255, and there are a number and endings
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Separation:
    """What was written."""

    stems: tuple[Path, ...]  # WAV, 32-bit float, one per object
    remainder: Path  # what no object has: the original minus all stems
    videos: tuple[Path, ...]  # mp4, one per object
    page: Path | None  # HTML, to hear and see all of them; None without videos


@dataclass(frozen=True)
class _Shown:
    """How the user says where the instruments are: by one of these."""

    objects: Sequence[Box | Click]
    pictures: Sequence[Path]
    detector: Path | None
    min_score: float

    def check(self, source: Path, in_video: bool) -> None:
        """Raises ValueError where nothing is given, or too much."""
        kinds = (("boxes or clicks", self.objects), ("pictures", self.pictures), ("a detector", self.detector))
        given = [name for name, value in kinds if value]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given; one of them says where the instruments are")
        if not self.pictures and not in_video:
            raise ValueError(
                f"{source} has no pictures, which guide the separator: give one per instrument with --pictures"
            )
        if not given:
            raise ValueError(
                f"say where the instruments are in {source}: --boxes or --click for each, or --detector WEIGHTS, or "
                "--pictures of them"
            )

    def files(self) -> list[Path]:
        return [*self.pictures, *([self.detector] if self.detector else [])]


@dataclass(frozen=True)
class _Job:
    """A separation whose input has been read and checked."""

    source: Path
    checkpoint: Path
    model: Model
    info: SoundInfo
    found: Sequence[SoundObject]
    names: Sequence[str]  # of the objects' files
    above: str
    protocol: ProtocolConfig
    out: Path

    @property
    def stems(self) -> tuple[Path, ...]:
        return tuple(self.out / f"{name}.wav" for name in self.names)

    @property
    def videos(self) -> tuple[Path, ...]:
        return tuple(self.out / f"{name}.mp4" for name in self.names)

    @property
    def remainder(self) -> Path:
        return self.out / "remainder.wav"

    @property
    def page(self) -> Path:
        return self.out / PAGE

    @property
    def record(self) -> Path:
        return self.out / RECORD


def separate_file(  # noqa: PLR0913 - the options of `ialcms separate`
    source: Path | str,
    checkpoint: Path | str,
    objects: Sequence[Box | Click] = (),
    *,
    pictures: Sequence[Path | str] = (),
    detector: Path | str | None = None,
    min_score: float = 0.9,
    out: Path | str = "separated",
    above: str = "share",
    protocol: ProtocolConfig = BEST,
    videos: bool = True,
    batch_windows: int = 16,
    device: str | None = None,
) -> Separation:
    """Separate a video by objects in its frames, or any sound by pictures.

    source: a video or a sound. checkpoint: a run's folder (its best one counts), a checkpoint's folder, or a file that
    `ialcms export` wrote. Say where the instruments are by one of: `objects` (boxes or clicks in a video), `detector`
    (weights of `ialcms data detect`; the surest box of each class from `min_score` on), `pictures` (one per
    instrument). out: folder of the results. above: what objects get above the network's highest frequency, their
    "share" of the octave below or nothing ("remainder"). protocol: how masks become stems; the best that is known, or
    `ialcms.config.PUBLISHED`. videos: write them. batch_windows: how many pass the network together. device: like
    "cuda"; by default a GPU if there is one. Memory does not grow with the length. Raises ValueError with a remedy.
    """
    source, out = Path(source), Path(out)
    if above not in ABOVE:
        raise ValueError(f"above is '{above}'; choose {' or '.join(ABOVE)}")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give a folder for the stems (--out)")
    if batch_windows < 1:
        raise ValueError(f"batch_windows is {batch_windows}; give at least 1")
    shown = _Shown(objects, [*map(Path, pictures)], Path(detector) if detector else None, min_score=min_score)
    model = load_model(checkpoint, device)
    set_arithmetic(model.config)
    info = measure_sound(source, model.config.audio.sample_rate)
    if info.damage:
        log.warning("the sound of %s is not whole: %s (silence stands for what is missing)", source, info.damage)
    in_video = has_pictures(source)
    shown.check(source, in_video)
    found = _find_objects(source, shown, model, seconds=info.seconds, num_pictures=protocol.pictures)
    job = _Job(
        source=source,
        checkpoint=Path(checkpoint),
        model=model,
        info=info,
        found=found,
        names=_names(found),
        above=above,
        protocol=protocol,
        out=out,
    )
    written = [*job.stems, job.remainder, job.record, *((*job.videos, job.page) if videos else ())]
    given = [source, job.checkpoint, *shown.files()]
    refuse_overwriting(written, given, "give another folder for the stems (--out)")
    with Lease(out, "separation", "--out", name="the folder of stems"):
        earlier = names_of_earlier(out)
        refuse_foreign(written, earlier)
        localisation = _write_stems(job, batch_windows, earlier)
        damage = _write_videos(job, localisation) if videos else Damage()
        if videos:
            write_listening_page(job.page, _separated_files(job, in_video, localisation))
        if damage:
            log.warning("the pictures of %s are not whole: %s", source, damage)
        kept = {*given, *written}
        remove_earlier(out, kept)
        _write_record(job, damage)
        end_claim(out)
    return Separation(job.stems, job.remainder, job.videos if videos else (), page=job.page if videos else None)


def _find_objects(source: Path, shown: _Shown, model: Model, *, seconds: float, num_pictures: int) -> list[SoundObject]:
    """seconds: length of the video. num_pictures: of each object, as far as the video has them."""
    data: DataConfig = model.config.data
    if shown.pictures:
        return [object_of_picture(path, data) for path in shown.pictures]
    if shown.detector is None:
        sightings = [spread_over(box, seconds, num_pictures) for box in shown.objects]
        return [object_in_video(source, boxes, data) for boxes in sightings]
    # here: a detector's network takes a second to import, and most separations use none
    from ialcms.inference.detection import detect_objects

    detected = detect_objects(
        source,
        shown.detector,
        seconds,
        min_score=shown.min_score,
        device=str(model.device),
        count=num_pictures,
    )
    return [object_in_video(source, boxes, data) for boxes in detected]


def _names(found: Sequence[SoundObject]) -> list[str]:
    """Names for files: numbered, so that no two are the same, and short enough for any file system."""
    clean = (re.sub(r"[^\w.-]+", "_", sounding.name).strip("._") or "object" for sounding in found)
    return [f"{number}-{cut_name(name, _NAME_BYTES)}" for number, name in enumerate(clean, start=1)]


def _write_stems(job: _Job, batch_windows: int, earlier: set[str]) -> list[Localisation]:
    """Write stems and remainder; returns where the network hears the objects. earlier: names of former stems here."""
    maker = StemMaker(
        job.model.separator,
        job.model.config,
        _stacked(job.found, job.protocol.pictures).to(job.model.device),
        info=job.info,
        above=job.above,
        protocol=job.protocol,
        batch_windows=batch_windows,
    )
    with ExitStack() as stack:
        writers = [stack.enter_context(open_stem(path, job.info)) for path in (*job.stems, job.remainder)]
        bar = stack.enter_context(Progress(maker.num_windows, "separate", unit="window"))
        for piece in maker(lambda: read_blocks(job.source, job.info)):
            for writer, samples in zip(writers, (*piece.stems, piece.original - piece.stems.sum(0))):
                writer.write(samples)
            bar.advance(piece.windows_done - bar.done)
        # before the stems have their names: if this run is killed from here on, they are known as ours
        claim_names(job.out, {*earlier, *job.names})
    return maker.localisation


def _stacked(found: Sequence[SoundObject], count: int) -> Tensor:
    """(K, P, 3, S, S): `count` pictures of each object at most; one with fewer has some of them more than once."""
    most = min(count, max(len(sounding.pictures) for sounding in found))
    rows = [torch.arange(most) % len(sounding.pictures) for sounding in found]
    return torch.stack([sounding.pictures[chosen] for sounding, chosen in zip(found, rows)])


def _write_videos(job: _Job, localisation: Sequence[Localisation]) -> Damage:
    """Write a video per object; returns what is missing in the source's pictures."""
    of_pictures = any(sounding.region is None for sounding in job.found)
    frames = still_frames(job.info.seconds) if of_pictures else Frames(job.source)
    overlays = list(map(Overlay, job.videos, job.found, job.stems))
    with Progress(None, "videos", unit="frame") as bar:
        write_overlays(overlays, _counted(frames, bar), localisation, info=job.info)
    return frames.damage if isinstance(frames, Frames) else Damage()


def _counted(frames: Iterator[TimedFrame], bar: Progress) -> Iterator[TimedFrame]:
    for frame in frames:
        yield frame
        bar.advance()


def _separated_files(job: _Job, has_pictures: bool, localisation: Sequence[Localisation]) -> SeparatedFiles:
    """What the listening page shows."""
    return SeparatedFiles(
        source=job.source,
        has_pictures=has_pictures,
        checkpoint=str(job.checkpoint),
        step=job.model.step,
        info=job.info,
        objects=job.found,
        names=job.names,
        stems=job.stems,
        remainder=job.remainder,
        localisation=localisation,
    )


def _write_record(job: _Job, pictures_damage: Damage) -> None:
    """separation.json: what was separated by what."""
    objects = []
    for name, sounding in zip(job.names, job.found):
        objects.append({"name": name, "region": sounding.region, "pictures": len(sounding.pictures)})
    record = {
        "source": str(job.source),
        "checkpoint": str(job.checkpoint),
        "step": job.model.step,
        "sample_rate": job.info.sample_rate,
        "seconds": job.info.seconds,
        "above": job.above,
        "protocol": asdict(job.protocol),
        "objects": objects,
        "damaged": {"sound": asdict(job.info.damage), "pictures": asdict(pictures_damage)},
    }
    write_whole(job.record, json.dumps(record, indent=1) + "\n")
