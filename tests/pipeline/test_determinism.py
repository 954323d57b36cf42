"""The same bytes from any number of workers, from another process, and after a kill."""

import os
import signal
import subprocess
import sys
import time

from antvisionps.panoptic.splits import open_split
from tests.pipeline.workspace import PROJECT, bytes_below, change_params, succeed, write_params


def test_the_number_of_workers_changes_no_byte(done, tmp_path):
    """test_calibrate.py has calibrate, test_report.py the page."""
    params = write_params(tmp_path / "params.yaml", workers=3)
    for stage in ("evaluate_heldout", "fuse"):
        succeed(done.run(stage, params=params, out=tmp_path / stage))
    succeed(done.run("score", params=params, out=tmp_path / "metrics", scores=tmp_path / "scores"))
    expected = {"evaluate_heldout": "routing", "fuse": "fused", "metrics": "metrics", "scores": "scores"}
    for folder, own in expected.items():
        assert bytes_below(tmp_path / folder) == bytes_below(done.root / own)


def test_a_union_needs_no_routing_and_the_number_of_workers_changes_no_byte_of_it(done, union, tmp_path):
    params = change_params(union / "params.yaml", tmp_path / "params.yaml", runtime={"workers": 2})
    succeed(done.run("fuse", params=params, routing=tmp_path / "nowhere", out=tmp_path / "fused"))
    assert bytes_below(tmp_path / "fused") == bytes_below(union / "fused")


HANG = """
import os, pathlib, runpy, sys, time
from antvisionps.predictions.semantic import SemanticReader

marker, image_id = pathlib.Path(sys.argv[1]), int(sys.argv[2])
read = SemanticReader.read

def read_or_hang(reader, wanted):
    if wanted == image_id:
        marker.touch()
        time.sleep(600)
    return read(reader, wanted)

SemanticReader.read = read_or_hang
sys.argv = sys.argv[3:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a stage's script, which never gets over one image."""


def test_killed_and_begun_again_in_other_processes_fuse_gives_the_same_bytes(done, tmp_path):
    params = write_params(tmp_path / "params.yaml", workers=2)
    out, marker = tmp_path / "data" / "fused", tmp_path / "hangs"
    last = open_split(done.prepared, "val").images[-1].image_id
    command = done.command("fuse", params=params, out=out)
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "PYTHONHASHSEED": "7"}
    hang = [sys.executable, "-c", HANG, str(marker), str(last), *command[1:]]
    hanging = subprocess.Popen(hang, stdout=subprocess.PIPE, env=environment)
    while not marker.exists() and hanging.poll() is None:
        time.sleep(0.02)
    hanging.kill()
    hanging.communicate(timeout=60)  # its worker processes hold the pipe too: they end with it
    assert hanging.returncode == -signal.SIGKILL
    unfinished, _lock = sorted(out.parent.iterdir())
    assert not out.exists()
    (unfinished / "fusion" / "panoptic" / "000000999999.png").touch()  # of images that are gone next time
    succeed(subprocess.run(command, capture_output=True, text=True, check=False, env=environment))
    assert list(out.parent.iterdir()) == [out]
    assert bytes_below(out) == bytes_below(done.fused)


def test_the_stages_after_predict_start_without_heavy_packages():
    script = """
import runpy, sys
for stage in ("evaluate_heldout", "calibrate", "fuse", "score"):
    runpy.run_path(f"stages/{stage}.py", run_name="imported")
slow = {"torch", "torchvision", "matplotlib", "pandas", "scipy", "mmdet"} & set(sys.modules)
assert not slow, slow
"""
    succeed(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=PROJECT))
