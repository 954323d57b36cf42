"""Stage `train_lwl_htc@member`: one network of the LWL-HTC ensemble on the train split."""

from antvisionps.core.stage import run_stage, stage_parser
from antvisionps.models.lwl_htc.network import build_lwl_htc
from antvisionps.models.monitor.measure import measure
from antvisionps.models.training.settings import TrainingSettings
from antvisionps.models.training.stage import train_on_train_split
from antvisionps.params.runtime import Runtime
from antvisionps.params.section import load_section
from antvisionps.params.training import TrainLwlHtc


def main() -> None:
    parser = stage_parser(__doc__, "prepared", "work", "out")
    parser.add_argument("--member", required=True, help="one of train_lwl_htc.members")
    options = parser.parse_args()
    settings = load_section(options.params, "train_lwl_htc", TrainLwlHtc)
    runtime = load_section(options.params, "runtime", Runtime)
    train_on_train_split(
        options,
        end="lwl_htc",
        build=build_lwl_htc,
        network=settings.network(options.member),
        load_from=settings.load_from(options.member),
        settings=TrainingSettings(**settings.keyword_arguments()),
        measure=measure,
        **runtime.training_arguments(),
    )


if __name__ == "__main__":
    run_stage(main)
