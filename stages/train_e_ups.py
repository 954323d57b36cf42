"""Stage `train_e_ups@member`: one network of the E-UPS ensemble on the train split."""

from antvisionps.core.stage import run_stage, stage_parser
from antvisionps.models.e_ups.network import build_e_ups
from antvisionps.models.monitor.measure import measure
from antvisionps.models.training.settings import TrainingSettings
from antvisionps.models.training.stage import train_on_train_split
from antvisionps.params.runtime import Runtime
from antvisionps.params.section import load_section
from antvisionps.params.training import TrainEUps


def main() -> None:
    parser = stage_parser(__doc__, "prepared", "work", "out")
    parser.add_argument("--member", required=True, help="one of train_e_ups.members")
    options = parser.parse_args()
    settings = load_section(options.params, "train_e_ups", TrainEUps)
    runtime = load_section(options.params, "runtime", Runtime)
    train_on_train_split(
        options,
        end="e_ups",
        build=build_e_ups,
        network=settings.network(options.member),
        load_from=settings.load_from(options.member),
        settings=TrainingSettings(**settings.keyword_arguments()),
        measure=measure,
        **runtime.training_arguments(),
    )


if __name__ == "__main__":
    run_stage(main)
