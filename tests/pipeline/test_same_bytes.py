"""The same data and params give the same bytes: of a whole run, and of another in a folder and processes of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

from tests.tiny_run import PROJECT


def files(folder: Path) -> dict[str, bytes]:
    paths = [path for part in ("data", "metrics") for path in sorted((folder / part).rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_a_second_run_with_another_number_of_workers_gives_the_same_bytes(tiny_run, tmp_path):
    yaml = YAML(typ="safe", pure=True)
    params = yaml.load(tiny_run / "params.yaml")
    params["runtime"]["workers"] = 2
    yaml.dump(params, tmp_path / "params.yaml")
    command = [sys.executable, str(PROJECT / "tests" / "tiny_run.py")]
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    first, second = files(tiny_run), files(tmp_path)
    assert {"data/models/e_ups/base/weights.pth", "data/predictions/lwl_htc/val/instances.parquet"} <= set(first)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
