"""Stage `evaluate_heldout`: mask AP of every end on the held-out split, and from it which end has which category."""

from antvisionps.core.stage import run_stage, stage_parser
from antvisionps.params.whole import load_params
from antvisionps.pipeline.evaluate_heldout import evaluate_heldout


def main() -> None:
    options = vars(stage_parser(__doc__, "prepared", "predictions", "out").parse_args())
    evaluate_heldout(load_params(options.pop("params")), **options)


if __name__ == "__main__":
    run_stage(main)
