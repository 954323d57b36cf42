"""Stage `report`: the page that shows every number and every image of the val split in a browser."""

from antvisionps.core.stage import run_stage, stage_parser
from antvisionps.params.whole import load_params
from antvisionps.pipeline.report import report

FOLDERS = ("prepared", "models", "predictions", "routing", "calibration", "fused", "metrics", "scores", "out")


def main() -> None:
    options = vars(stage_parser(__doc__, *FOLDERS).parse_args())
    report(load_params(options.pop("params")), **options)


if __name__ == "__main__":
    run_stage(main)
