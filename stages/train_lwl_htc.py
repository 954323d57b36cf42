"""Stage `train_lwl_htc`: the LWL-HTC network on the train split."""

from antvisionps.core.stage import run_stage, stage_parser
from antvisionps.models.lwl_htc.network import build_lwl_htc
from antvisionps.models.monitor.measure import measure
from antvisionps.models.training.settings import TrainingSettings
from antvisionps.models.training.stage import train_on_train_split
from antvisionps.params.runtime import Runtime
from antvisionps.params.section import load_section
from antvisionps.params.training import TrainLwlHtc


def main() -> None:
    options = stage_parser(__doc__, "prepared", "work", "out").parse_args()
    settings = load_section(options.params, "train_lwl_htc", TrainLwlHtc)
    runtime = load_section(options.params, "runtime", Runtime)
    train_on_train_split(
        options,
        end="lwl_htc",
        build=build_lwl_htc,
        network=settings.network.architecture(),
        load_from=settings.network.load_from,
        settings=TrainingSettings(**settings.keyword_arguments()),
        measure=measure,
        **runtime.training_arguments(),
    )


if __name__ == "__main__":
    run_stage(main)
