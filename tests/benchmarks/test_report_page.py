"""The stages as the benchmarks run them, whose options and params are those of dvc.yaml."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.report_page import report, write_scored


def test_the_stages_make_a_page_of_two_images(tmp_path):
    write_scored(tmp_path, 2, 1, workers=1)
    report(tmp_path)
    assert (tmp_path / "report" / "index.html").is_file()
    assert len([*(tmp_path / "report" / "images").glob("*.js")]) == 2
