"""Unpacks zip archives without trusting them."""

import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from antvisionps.core.atomic import atomic_folder
from antvisionps.core.errors import DownloadError
from antvisionps.core.file_names import stays_below
from antvisionps.core.progress import progress

SPARE_BYTES = 2**30
"""Free space that stays on the disk."""


def unpack(archive: Path, out: Path, *, inside: str, suffix: str) -> int:
    """Unpacks the files `inside`/*`suffix` of the archive into the folder `out`, whole or not at all. Their number.

    Skips other members (some of COCO's archives hold a file system's own notes). Raises DownloadError on a corrupt
    archive, and on any member, wanted or not, that leads out of its folder, is a link, or occurs twice.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            _refuse_unsafe(archive, opened.infolist())
            wanted = [info for info in opened.infolist() if _is_wanted(info, inside, suffix)]
            require_space(out.parent, sum(info.file_size for info in wanted))
            with atomic_folder(out) as folder:
                for info in progress(wanted, description=f"unpack {out.name}", total=len(wanted), unit="file"):
                    with opened.open(info) as source, (folder / PurePosixPath(info.filename).name).open("wb") as copy:
                        shutil.copyfileobj(source, copy)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DownloadError(f"{archive}: corrupt archive ({error}); remove it and fetch it again") from error
    except OSError as error:
        raise DownloadError(f"{archive}: cannot be unpacked to {out} ({error})") from error
    return len(wanted)


def unpack_file(archive: Path, member: str, out: Path) -> None:
    """Unpacks one member as the file `out`, with the same care."""
    folder = PurePosixPath(member)
    unpacked = out.with_name(f".{out.name}.folder")
    if unpack(archive, unpacked, inside=str(folder.parent), suffix=folder.name) != 1:
        shutil.rmtree(unpacked)
        raise DownloadError(f"{archive}: expected {member} in it, found none; remove it and fetch it again")
    (unpacked / folder.name).replace(out)
    unpacked.rmdir()


def require_space(folder: Path, needed_bytes: int) -> None:
    """Raises DownloadError unless the folder's disk can take that much."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes + SPARE_BYTES:
        raise DownloadError(
            f"{folder}: expected {(needed_bytes + SPARE_BYTES) / 1e9:.1f} GB free on its disk, there are "
            f"{free / 1e9:.1f} GB; make room, or choose another folder"
        )


def _refuse_unsafe(archive: Path, members: list[zipfile.ZipInfo]) -> None:
    seen: set[str] = set()
    for info in members:
        path = PurePosixPath(info.filename)
        # orig_filename is the archive's own name; zipfile cuts `filename` at a null byte.
        if not stays_below(info.orig_filename):
            raise DownloadError(
                f"{archive}: member {info.orig_filename!r} leads out of its folder; do not use this file"
            )
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise DownloadError(f"{archive}: member {info.filename!r} is a link or device; do not use this file")
        if str(path) in seen:
            raise DownloadError(f"{archive}: member {info.filename!r} is there twice; do not use this file")
        seen.add(str(path))


def _is_wanted(info: zipfile.ZipInfo, inside: str, suffix: str) -> bool:
    path = PurePosixPath(info.filename)
    return not info.is_dir() and str(path.parent) == inside and path.name.endswith(suffix)
