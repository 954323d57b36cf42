"""Stage `fuse`: the panoptic maps of the val split by every system, of one end alone or of all ends together."""

from antvisionps.core.stage import run_stage, stage_parser
from antvisionps.params.whole import load_params
from antvisionps.pipeline.fuse import fuse_systems


def main() -> None:
    options = vars(stage_parser(__doc__, "prepared", "predictions", "routing", "calibration", "out").parse_args())
    fuse_systems(load_params(options.pop("params")), **options)


if __name__ == "__main__":
    run_stage(main)
