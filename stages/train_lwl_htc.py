"""Stage `train_lwl_htc@member`: one network of the LWL-HTC ensemble on the train split."""

from antvisionps.core.stage import run_stage, stage_parser
from antvisionps.models.lwl_htc.network import build_lwl_htc
from antvisionps.models.monitor.measure import measure
from antvisionps.models.training.stage import train_on_train_split
from antvisionps.params.training import load_training


def main() -> None:
    parser = stage_parser(__doc__, "prepared", "work", "out")
    parser.add_argument("--member", required=True, help="one of train_lwl_htc.members")
    options = parser.parse_args()
    training = load_training(options.params, "lwl_htc", options.member)
    train_on_train_split(options, build=build_lwl_htc, measure=measure, **training)


if __name__ == "__main__":
    run_stage(main)
