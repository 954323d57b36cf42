"""Stage `train_e_ups@member`: one network of the E-UPS ensemble on the train split."""

from antvisionps.core.stage import run_stage, stage_parser
from antvisionps.models.e_ups.network import build_e_ups
from antvisionps.models.monitor.measure import measure
from antvisionps.models.training.stage import train_on_train_split
from antvisionps.params.training import load_training


def main() -> None:
    parser = stage_parser(__doc__, "prepared", "work", "out")
    parser.add_argument("--member", required=True, help="one of train_e_ups.members")
    options = parser.parse_args()
    training = load_training(options.params, "e_ups", options.member)
    train_on_train_split(options, build=build_e_ups, measure=measure, **training)


if __name__ == "__main__":
    run_stage(main)
