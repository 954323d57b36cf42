"""Which files of a folder count, and that nothing waits for what is no file."""

import os
from pathlib import Path

import pyarrow as pa
import pytest

from antvisionps.core.errors import CacheError
from antvisionps.core.input_files import files_below, open_file, read_file
from antvisionps.core.json_files import iterate_json, read_json
from antvisionps.core.parquet_files import ParquetReader


def test_hidden_files_and_what_systems_leave_do_not_count(tmp_path):
    kept = ["a.png", "b/c.png", "thumbs.png"]
    left = [".DS_Store", "._a.png", "Thumbs.db", "b/DESKTOP.INI", "__MACOSX/a.png", ".git/config", "@eaDir/a.png"]
    for name in kept + left:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.relative_to(tmp_path).as_posix() for path in files_below(tmp_path)] == kept


def test_a_link_to_a_file_is_a_file(tmp_path):
    (tmp_path / "a").write_text("text")
    (tmp_path / "b").symlink_to("a")
    assert read_file(tmp_path / "b") == b"text"


@pytest.mark.parametrize(
    ("make", "kind"),
    [(os.mkfifo, "a FIFO"), (os.mkdir, "a folder"), (lambda path: path.symlink_to("/dev/zero"), "a device")],
)
def test_what_is_no_file_is_refused_before_it_is_opened(tmp_path, make, kind):
    path: Path = tmp_path / "a"
    make(path)
    for read in (open_file, read_file):
        with pytest.raises(OSError, match=f"expected a file, got {kind}"):
            read(path)
    wording = {"what": "table", "remedy": "write it again"}
    for refuse in (
        lambda: read_json(path, **wording),
        lambda: list(iterate_json(path, "item", **wording)),
        lambda: ParquetReader(path, pa.schema([]), remedy="write it again", error=CacheError),
    ):
        with pytest.raises(CacheError, match=f"a: .*expected a file, got {kind}.*write it again"):
            refuse()
