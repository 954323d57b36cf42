"""Fetches one file over HTTP, whole and checked, however often the connection breaks off.

The bytes that came stand beside the target as NAME.part; the next attempt, or the next run, asks for the rest. The
caller knows size and checksum, so no other file than the published one is ever used.
"""

import hashlib
import http
import http.client
import os
import re
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from antvisionps.core.errors import DownloadError
from antvisionps.core.progress import progress

TIMEOUT_S = 60.0
"""Longest silence of a server."""

ATTEMPTS = 8
"""Attempts in a row without a byte, after which `fetch` gives up."""

LONGEST_WAIT_S = 60.0

_CHUNK_BYTES = 2**20
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    url: str
    size_bytes: int
    sha256: str


class _BrokenOffError(Exception):
    """The connection ended before the file did; another attempt may go on."""


def fetch(file: RemoteFile, target: Path, *, wait_s: float = 2.0) -> None:
    """Fetches the file to `target`, unless it is there. Waits `wait_s` after an attempt without a byte, and twice as
    long after each further one.

    Raises DownloadError where the server has no such file or one of another size, where all ATTEMPTS fail, where the
    disk cannot be written, and where the checksum differs; the file is then removed.
    """
    if not file.url.startswith(("http://", "https://")):
        raise DownloadError(f"{file.url}: expected an address that begins with http:// or https://")
    part = _part(target)
    try:
        if not target.exists():
            _complete(file, part, wait_s)
            os.replace(part, target)
        _check(file, target)
    except OSError as error:
        raise DownloadError(f"{target}: cannot be written ({error}); run the command again, it goes on") from error


def arrived_bytes(target: Path) -> int:
    """How many bytes of the file have arrived."""
    return _size(target) or _size(_part(target))


def _part(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _complete(file: RemoteFile, part: Path, wait_s: float) -> None:
    idle = 0
    if _size(part) > file.size_bytes:
        part.unlink()
    while (before := _size(part)) != file.size_bytes:
        problem = "the connection ended early"
        try:
            _append(file, part, before)
        except _BrokenOffError as error:
            problem = str(error)
        idle = 0 if _size(part) > before else idle + 1
        if idle == ATTEMPTS:
            raise DownloadError(
                f"{file.url}: {ATTEMPTS} attempts in a row brought nothing ({problem}); {_size(part)} of "
                f"{file.size_bytes} bytes are kept in {part}: run the command again, it goes on from there"
            )
        if idle:
            wait = min(LONGEST_WAIT_S, wait_s * 2 ** (idle - 1))
            print(f"{file.url}: {problem}; next attempt in {wait:g} s", file=sys.stderr, flush=True)
            time.sleep(wait)


def _append(file: RemoteFile, part: Path, offset: int) -> None:
    """One request for what is missing. Raises _BrokenOffError, or DownloadError where another attempt cannot help."""
    with _open(file, offset) as response:
        begins = _first_byte(file, response, offset)
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("r+b" if part.exists() else "wb") as out:
            # A server without ranges sends the file from its beginning.
            out.truncate(begins)
            out.seek(begins)
            _copy(file, response, out, begins)


def _open(file: RemoteFile, offset: int) -> http.client.HTTPResponse:
    request = urllib.request.Request(file.url, headers={"Range": f"bytes={offset}-", "Accept-Encoding": "identity"})
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code >= http.HTTPStatus.INTERNAL_SERVER_ERROR or error.code == http.HTTPStatus.TOO_MANY_REQUESTS:
            raise _BrokenOffError(f"HTTP {error.code} {error.reason}") from error
        raise DownloadError(f"{file.url}: HTTP {error.code} {error.reason}; is the address right?") from error
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenOffError(str(error) or type(error).__name__) from error
    return response


def _first_byte(file: RemoteFile, response: http.client.HTTPResponse, offset: int) -> int:
    """Offset at which the body begins. Raises DownloadError on a part that was not asked for, or another file size."""
    begins, total = 0, response.headers.get("Content-Length")
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != offset:
            raise DownloadError(f"{file.url}: the server sent another part than byte {offset} on; use another mirror")
        begins, total = offset, found[2]
    if total is not None and total != str(file.size_bytes):
        raise DownloadError(
            f"{file.url}: expected the published {file.size_bytes} bytes, the server has {total}; use another mirror"
        )
    return begins


def _copy(file: RemoteFile, response: http.client.HTTPResponse, out: BinaryIO, begins: int) -> None:
    size = begins
    with _bar(file, description="fetch", initial=begins) as bar:
        while chunk := _read(response):
            size += len(chunk)
            if size > file.size_bytes:
                out.truncate(begins)
                raise DownloadError(
                    f"{file.url}: the server sends more than the published {file.size_bytes} bytes; use another mirror"
                )
            out.write(chunk)
            bar.update(len(chunk))


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(_CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenOffError(str(error) or type(error).__name__) from error


def _check(file: RemoteFile, target: Path) -> None:
    size, digest = 0, hashlib.sha256()
    with target.open("rb") as content, _bar(file, description="check", initial=0) as bar:
        while chunk := content.read(_CHUNK_BYTES):
            size += len(chunk)
            digest.update(chunk)
            bar.update(len(chunk))
    if digest.hexdigest() != file.sha256:
        target.unlink()
        raise DownloadError(
            f"{target}: expected {file.size_bytes} bytes with sha256 {file.sha256}, got {size} with "
            f"{digest.hexdigest()}; it is removed: run the command again, or use another mirror"
        )


def _bar(file: RemoteFile, *, description: str, initial: int) -> Any:
    name = file.url.rsplit("/", 1)[-1]
    return progress(
        description=f"{description} {name}", total=file.size_bytes, unit="B", unit_scale=True, initial=initial
    )
