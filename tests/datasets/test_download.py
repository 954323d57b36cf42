"""Fetching and unpacking from a local HTTP server that breaks off, lies about sizes and serves corrupt archives."""

import hashlib
import io
import json
import stat
import threading
import zipfile
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from antvisionps.cli import main as cli
from antvisionps.core.errors import DownloadError
from antvisionps.datasets import coco, download
from antvisionps.datasets.coco import PARTS, Part, download_coco
from antvisionps.datasets.download import RemoteFile, fetch
from antvisionps.datasets.unpacking import unpack

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get("Range")))
        fault = self.server.faults.pop(0) if self.server.faults else {}
        content = self.server.files.get(self.path)
        if content is None or "status" in fault:
            self.send_error(fault.get("status", 404))
            return
        body, total = content, fault.get("total", len(content))
        if "no_ranges" in fault:
            self.send_response(200)
            if "chunked" not in fault:
                self.send_header("Content-Length", str(total))
        else:
            first = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            body = content[first:]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {fault.get('first', first)}-{len(content) - 1}/{total}")
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        body = fault.get("body", body)
        self.wfile.write(body[: fault.get("stop_after", len(body))])

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    """Serves `files` (path → bytes); `faults` are taken one a request, and then it behaves."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.faults, self.requests = {"/file.zip": CONTENT}, [], []
        self.address = f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def fetch_all(server, tmp_path):
    """Fetches the file to a.zip and asserts that it is whole."""

    def fetch_whole():
        fetch(RemoteFile(f"{server.address}/file.zip", len(CONTENT), SHA256), tmp_path / "a.zip", wait_s=0)
        assert (tmp_path / "a.zip").read_bytes() == CONTENT

    return fetch_whole


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


# Fetching.


def test_a_broken_off_download_goes_on_where_it_was(server, tmp_path, fetch_all):
    server.faults = [{"stop_after": 100_000}, {"stop_after": 1}, {"stop_after": 150_000}]
    fetch_all()
    assert [asked for _, asked in server.requests] == [f"bytes={first}-" for first in (0, 100_000, 100_001, 250_001)]
    assert names_in(tmp_path) == ["a.zip"]


def test_the_next_run_goes_on_too_and_a_whole_file_is_not_fetched_again(server, tmp_path, fetch_all):
    server.faults = [{"stop_after": 1000}] + [{"stop_after": 0}] * download.ATTEMPTS
    with pytest.raises(DownloadError, match=r"attempts in a row brought nothing .*1000 of 300000 bytes are kept"):
        fetch_all()
    assert names_in(tmp_path) == ["a.zip.part"]
    fetch_all()
    assert server.requests[-1][1] == "bytes=1000-"
    asked = len(server.requests)
    fetch_all()
    assert len(server.requests) == asked


@pytest.mark.parametrize(
    "faults",
    [
        [{"stop_after": 1000}, {"no_ranges": True}],  # a server without ranges, which starts anew
        [{"status": 503}, {"status": 429}, {"status": 500}],  # a busy one, which is asked again
    ],
)
def test_a_difficult_server_is_borne_with(server, fetch_all, faults):
    server.faults = faults
    fetch_all()


def test_a_server_that_is_not_there_is_given_up(server, fetch_all):
    server.server_close()
    with pytest.raises(DownloadError, match="brought nothing"):
        fetch_all()


@pytest.mark.parametrize(
    ("lie", "match"),
    [
        ({"total": 299_999}, "expected the published 300000 bytes, the server has 299999"),
        ({"total": 5, "no_ranges": True}, "the server has 5"),
        ({"first": 7}, "another part than byte 0"),
        ({"no_ranges": True, "chunked": True, "body": CONTENT + b"more"}, "sends more than the published 300000 bytes"),
        ({"status": 404}, "HTTP 404"),
    ],
)
def test_a_server_that_lies_is_not_believed(server, tmp_path, fetch_all, lie, match):
    server.faults = [lie] * 3
    with pytest.raises(DownloadError, match=match):
        fetch_all()
    assert len(server.requests) == 1
    assert not (tmp_path / "a.zip").exists()


def test_a_file_that_is_not_there_leaves_no_folder(server, tmp_path):
    server.faults = [{"status": 404}]
    with pytest.raises(DownloadError, match="HTTP 404"):
        download_parts(server, tmp_path / "a" / "b", small_coco(server))
    assert list(tmp_path.iterdir()) == []


def test_other_bytes_of_the_right_size_are_removed(server, tmp_path, fetch_all):
    server.faults = [{"body": bytes(len(CONTENT))}]
    with pytest.raises(DownloadError, match=f"sha256 {SHA256}, got 300000 with"):
        fetch_all()
    assert names_in(tmp_path) == []
    fetch_all()
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_part_that_is_too_long_is_fetched_anew(server, tmp_path, fetch_all):
    (tmp_path / "a.zip.part").write_bytes(CONTENT + b"x")
    fetch_all()
    assert server.requests[0][1] == "bytes=0-"


def test_only_http_is_fetched(tmp_path):
    with pytest.raises(DownloadError, match="begins with http"):
        fetch(RemoteFile("file:///etc/passwd", 1, "0" * 64), tmp_path / "a.zip")


# Unpacking.


def zipped(members):
    """A zip of (name or ZipInfo, content)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def link(name, kind):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    return info


GOOD = [("photos/", b""), ("photos/1.jpg", b"one"), ("photos/2.jpg", b"two"), ("__MACOSX/photos/._1.jpg", b"notes")]


def unpack_photos(folder, archive):
    (folder / "a.zip").write_bytes(archive)
    return unpack(folder / "a.zip", folder / "photos", inside="photos", suffix=".jpg")


def test_the_wanted_members_alone_are_unpacked(tmp_path):
    assert unpack_photos(tmp_path, zipped([*GOOD, ("photos/deep/3.jpg", b"three"), ("photos/read.me", b"")])) == 2
    unpacked = {path.name: path.read_bytes() for path in (tmp_path / "photos").iterdir()}
    assert unpacked == {"1.jpg": b"one", "2.jpg": b"two"}


PHOTOS = zipped([("photos/", b""), ("photos/1.jpg", CONTENT[:5000])])


def corrupt(place):
    return PHOTOS[:place] + bytes([PHOTOS[place] ^ 0xFF]) + PHOTOS[place + 1 :]


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@pytest.mark.parametrize(
    ("member", "match"),
    [
        *((name, "leads out") for name in ("/elsewhere/x.jpg", "photos/../../x.jpg", "photos\\..\\x.jpg", "C:x.jpg")),
        *((link("photos/x.jpg", kind), "is a link or device") for kind in (stat.S_IFLNK, stat.S_IFCHR)),
        ("photos/1.jpg", "there twice"),
    ],
)
def test_an_unsafe_member_stops_everything(tmp_path, member, match):
    with pytest.raises(DownloadError, match=match):
        unpack_photos(tmp_path, zipped([*GOOD, (member, b"/etc/passwd")]))
    assert names_in(tmp_path) == ["a.zip"]


@pytest.mark.parametrize("content", [b"", b"no zip at all", PHOTOS[:-30], *map(corrupt, (1500, 3000, 4500))])
def test_a_corrupt_archive_leaves_nothing(tmp_path, content):
    with pytest.raises(DownloadError, match="corrupt archive"):
        unpack_photos(tmp_path, content)
    assert names_in(tmp_path) == ["a.zip"]


# COCO.


def small_coco(server, **other):
    """Parts of COCO's shape with a few files each, served under COCO's paths; `other` takes the place of archives."""
    splits = {"train2017": 3, "val2017": 2}
    panoptic = [(f"annotations/panoptic_{split}.json", split.encode()) for split in splits]
    for split, count in splits.items():
        maps = zipped([(f"panoptic_{split}/{i}.png", b"picture") for i in range(count)])
        panoptic.append((f"annotations/panoptic_{split}.zip", maps))
    instances = [(f"annotations/{kind}_train2017.json", kind.encode()) for kind in ("captions", "instances")]
    photos = {split: zipped([(f"{split}/{i}.jpg", CONTENT) for i in range(n)]) for split, n in splits.items()}
    archives = {"panoptic": zipped(panoptic), "instances": zipped(instances)} | photos | other
    parts = {}
    for name, part in PARTS.items():
        content = archives[name]
        counts = {place: 1 if place.endswith(".json") else 3 if "train" in place else 2 for place in part.files_in}
        parts[name] = Part(part.path, len(content), hashlib.sha256(content).hexdigest(), counts, part.unpack)
        server.files[f"/{part.path}"] = content
    return parts


def download_parts(server, to, parts, *names):
    download_coco(to, names=names or list(parts), server=server.address, parts=parts, wait_s=0)


def test_coco_is_laid_out_as_its_profile_reads_it(server, tmp_path):
    parts = small_coco(server)
    server.faults = [{}, {"stop_after": 50}, {}, {"stop_after": 200_000}]
    to = tmp_path / "data" / "coco"
    download_parts(server, to, parts)
    assert names_in(to) == ["annotations", "download.json", "train2017", "val2017"]
    jsons = [f"{name}.json" for name in ("instances_train2017", "panoptic_train2017", "panoptic_val2017")]
    assert names_in(to / "annotations") == sorted(["panoptic_train2017", "panoptic_val2017", *jsons])
    assert (to / "annotations" / "instances_train2017.json").read_text() == "instances"
    assert names_in(to / "annotations" / "panoptic_train2017") == ["0.png", "1.png", "2.png"]
    assert (to / "annotations" / "panoptic_val2017.json").read_text() == "val2017"
    assert (to / "train2017" / "2.jpg").read_bytes() == CONTENT
    assert json.loads((to / "download.json").read_text())["train2017"]["files"] == {"train2017": 3}
    asked = len(server.requests)
    download_parts(server, to, parts)
    assert len(server.requests) == asked


def test_what_was_interrupted_after_unpacking_is_finished(server, tmp_path, monkeypatch):
    parts = small_coco(server)
    with monkeypatch.context() as patch:
        patch.setattr(coco, "atomic_file", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            download_parts(server, tmp_path, parts, "val2017")
    assert names_in(tmp_path) == ["val2017", "val2017.zip"]
    asked = len(server.requests)
    download_parts(server, tmp_path, parts, "val2017")
    assert len(server.requests) == asked
    assert names_in(tmp_path) == ["download.json", "val2017"]


def test_a_folder_of_somebody_else_is_left_alone(server, tmp_path):
    (tmp_path / "train2017").mkdir()
    with pytest.raises(DownloadError, match="train2017: there already, but not put there by this command"):
        download_parts(server, tmp_path, small_coco(server))
    assert not server.requests


@pytest.mark.parametrize(
    ("name", "archive", "message"),
    [
        ("train2017", [(f"train2017/{i}.jpg", b"") for i in range(4)], r"expected \{'train2017': 3\} files in it, got"),
        ("panoptic", [("annotations/panoptic_train2017.zip", b"")], r"expected annotations/panoptic_train2017\.json"),
    ],
)
def test_an_archive_of_other_files_is_refused(server, tmp_path, name, archive, message):
    parts = small_coco(server, **{name: zipped(archive)})
    with pytest.raises(DownloadError, match=message):
        download_parts(server, tmp_path, parts, name)
    assert "download.json" not in names_in(tmp_path)


def test_a_full_disk_is_noticed_before_the_first_byte(server, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("antvisionps.datasets.unpacking.shutil.disk_usage", lambda path: usage(0, 0, 30 * 10**9))
    with pytest.raises(DownloadError, match=r"expected 43\.6 GB free on its disk, there are 30\.0 GB"):
        download_coco(tmp_path / "coco", names=list(PARTS), server=server.address)
    assert not server.requests
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_broken_manifest_is_named(server, tmp_path, text):
    (tmp_path / "download.json").write_text(text)
    with pytest.raises(DownloadError, match=r"download\.json: "):
        download_parts(server, tmp_path, small_coco(server), "val2017")


def test_it_is_a_command(server, tmp_path, monkeypatch, capsys):
    parts = small_coco(server)
    monkeypatch.setattr(coco.download_coco, "__kwdefaults__", {"server": "", "parts": parts, "wait_s": 0})
    cli.main(["download", "coco", "--to", str(tmp_path), "--only", "val2017", "--mirror", f"{server.address}/"])
    assert names_in(tmp_path) == ["download.json", "val2017"]
    assert "val2017 in " in capsys.readouterr().out
