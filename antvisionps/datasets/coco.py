"""Fetches COCO 2017 with its panoptic annotations and lays it out as `prepare` reads it (profiles/coco_paper.yaml).

Archives: https://cocodataset.org/#download. Each is removed when its files are unpacked and counted.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antvisionps.core.atomic import atomic_file
from antvisionps.core.errors import DownloadError
from antvisionps.core.json_files import read_json
from antvisionps.datasets.download import RemoteFile, arrived_bytes, fetch
from antvisionps.datasets.unpacking import require_space, unpack, unpack_file

SERVER = "http://images.cocodataset.org"
"""Without TLS: the server's certificate has another name. The checksums decide what is genuine."""

MANIFEST = "download.json"


@dataclass(frozen=True)
class Part:
    """An archive, and how many files each folder that it unpacks to must have; a single file counts as one."""

    path: str
    size_bytes: int
    sha256: str
    files_in: Mapping[str, int]
    unpack: Callable[[Path, Path], Mapping[str, int]]


def _unpack_photos(archive: Path, to: Path) -> Mapping[str, int]:
    name = archive.stem
    return {name: unpack(archive, to / name, inside=name, suffix=".jpg")}


def _unpack_panoptic(archive: Path, to: Path) -> Mapping[str, int]:
    """Two JSONs, and the PNGs of two archives inside the archive."""
    counts = {}
    folder = to / "annotations"
    for split in ("train2017", "val2017"):
        name = f"panoptic_{split}"
        inner = folder / f"{name}.zip"
        unpack_file(archive, f"annotations/{name}.json", folder / f"{name}.json")
        unpack_file(archive, f"annotations/{name}.zip", inner)
        counts[f"annotations/{name}"] = unpack(inner, folder / name, inside=name, suffix=".png")
        inner.unlink()
    return counts


def _unpack_instances(archive: Path, to: Path) -> Mapping[str, int]:
    """Unpacks the instances of train alone: held-out images are a part of train."""
    name = "annotations/instances_train2017.json"
    unpack_file(archive, name, to / name)
    return {name: 1}


PARTS: Mapping[str, Part] = {
    "panoptic": Part(
        "annotations/panoptic_annotations_trainval2017.zip",
        860725834,
        "c05f76d2129b6b561eb70efe16e7006df62f73fb92889132d373b9d90e31a370",
        {"annotations/panoptic_train2017": 118287, "annotations/panoptic_val2017": 5000},
        _unpack_panoptic,
    ),
    "instances": Part(
        "annotations/annotations_trainval2017.zip",
        252907541,
        "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
        {"annotations/instances_train2017.json": 1},
        _unpack_instances,
    ),
    "val2017": Part(
        "zips/val2017.zip",
        815585330,
        "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
        {"val2017": 5000},
        _unpack_photos,
    ),
    "train2017": Part(
        "zips/train2017.zip",
        19336861798,
        "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
        {"train2017": 118287},
        _unpack_photos,
    ),
}


def download_coco(
    to: Path, *, names: Sequence[str], server: str = SERVER, parts: Mapping[str, Part] = PARTS, wait_s: float = 2.0
) -> None:
    """Fetches and unpacks the named parts into `to`, and skips what its manifest lists as done.

    Raises DownloadError before the first byte where the disk is too small or another program made a folder of that
    name; later where `fetch` or `unpack` does, or where files are missing. The next call goes on from there.
    """
    manifest = _read_manifest(to / MANIFEST)
    missing = [name for name in names if not _is_done(to, parts[name], manifest.get(name))]
    for name in missing:
        _refuse_foreign(to, parts[name])
    require_space(to, _needed_bytes(to, [parts[name] for name in missing]))
    for name in missing:
        part = parts[name]
        archive = to / Path(part.path).name
        fetch(RemoteFile(f"{server}/{part.path}", part.size_bytes, part.sha256), archive, wait_s=wait_s)
        counts = part.unpack(archive, to)
        if counts != part.files_in:
            raise DownloadError(f"{archive}: expected {part.files_in} files in it, got {counts}")
        manifest[name] = {"size_bytes": part.size_bytes, "sha256": part.sha256, "files": dict(counts)}
        with atomic_file(to / MANIFEST) as unfinished:
            unfinished.write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        archive.unlink()


def _needed_bytes(to: Path, parts: Sequence[Part]) -> int:
    """The rest of the archives, and their size again for their files: photos and PNGs hardly shrink in a zip."""
    return sum(2 * part.size_bytes - arrived_bytes(to / Path(part.path).name) for part in parts)


def _is_done(to: Path, part: Part, entry: Any) -> bool:
    is_recorded = isinstance(entry, dict) and entry.get("sha256") == part.sha256
    return is_recorded and all((to / folder).exists() for folder in part.files_in)


def _refuse_foreign(to: Path, part: Part) -> None:
    """Refuses a folder without an archive beside it: a killed run of this command leaves both."""
    for folder in part.files_in:
        if (to / folder).exists() and not (to / Path(part.path).name).exists():
            raise DownloadError(
                f"{to / folder}: there already, but not put there by this command; move it away, or use it as it is"
            )


def _read_manifest(path: Path) -> dict[str, Any]:
    remedy = "remove it, and everything is checked again"
    manifest = read_json(path, what="manifest", remedy=remedy, error=DownloadError) if path.exists() else {}
    if not isinstance(manifest, dict):
        raise DownloadError(f"{path}: expected an object; {remedy}")
    return manifest
