"""Stage `prepare`: the data set of params.yaml, checked and split into train, heldout and val."""

from antvisionps.core.stage import run_stage, stage_parser
from antvisionps.params.whole import load_params
from antvisionps.pipeline.prepare import prepare


def main() -> None:
    options = stage_parser(__doc__, "out").parse_args()
    params = load_params(options.params)  # whole: a mistake in any section shows before anything is trained
    prepare(params.prepare, out=options.out, workers=params.runtime.workers)


if __name__ == "__main__":
    run_stage(main)
