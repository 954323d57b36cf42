"""Stage `calibrate`: the thresholds and semantic weights of every system with the best held-out PQ."""

from antvisionps.core.stage import run_stage, stage_parser
from antvisionps.params.whole import load_params
from antvisionps.pipeline.calibrate import calibrate_systems


def main() -> None:
    options = vars(stage_parser(__doc__, "prepared", "predictions", "routing", "out").parse_args())
    calibrate_systems(load_params(options.pop("params")), **options)


if __name__ == "__main__":
    run_stage(main)
