"""How long stage `calibrate` takes to fit method auto on held-out images of COCO's size.

    python -m benchmarks.calibrate --images 500

Two ends have 100 instances an image each.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

from benchmarks.coco_like import write_coco_like
from benchmarks.coco_like_stages import READ, add_options, apart, run_stage, write_params
from benchmarks.cpu_time import cpu_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, images=500, distinct=100)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        apart(write_coco_like, root, images=arguments.images, distinct=arguments.distinct, split="heldout")
        write_params(root, systems=("fusion",), workers=arguments.workers, method="auto")
        begin, cpu = time.perf_counter(), cpu_s()
        run_stage("calibrate", root, "--out", root / "calibration", read=READ[:-1])
        largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        print(f"{arguments.images} held-out images, {arguments.workers} workers: {time.perf_counter() - begin:.0f} s")
        print(f"CPU: {cpu_s() - cpu:.0f} s; the largest process: {largest:.0f} MiB")


if __name__ == "__main__":
    main()
