"""Stage `score`: PQ, SQ and RQ of every system on the val split, where the fusion loses PQ, and pictures."""

from antvisionps.core.stage import run_stage, stage_parser
from antvisionps.params.whole import load_params
from antvisionps.pipeline.score import score
from antvisionps.report.pq_table import print_pq
from antvisionps.report.score_tables import read_ignored

FOLDERS = ("prepared", "predictions", "routing", "calibration", "fused", "out", "scores")


def main() -> None:
    parser = stage_parser(__doc__, *FOLDERS)
    parser.add_argument(
        "--no-error-budget", action="store_true", help="leave the tables of what reads the ends' caches empty"
    )
    options = vars(parser.parse_args())
    params, with_budget = load_params(options.pop("params")), not options.pop("no_error_budget")
    summary = score(params, with_budget=with_budget, **options)
    print_pq(summary, read_ignored(options["out"]))


if __name__ == "__main__":
    run_stage(main)
