"""Stage `train_hrnet_aspp@member`: one network of the HRNet-ASPP ensemble on the train split."""

from antvisionps.core.stage import run_stage, stage_parser
from antvisionps.models.hrnet_aspp.network import build_hrnet_aspp
from antvisionps.models.monitor.measure import measure
from antvisionps.models.training.stage import train_on_train_split
from antvisionps.params.training import load_training


def main() -> None:
    parser = stage_parser(__doc__, "prepared", "work", "out")
    parser.add_argument("--member", required=True, help="one of train_hrnet_aspp.members")
    options = parser.parse_args()
    training = load_training(options.params, "hrnet_aspp", options.member)
    train_on_train_split(options, build=build_hrnet_aspp, measure=measure, **training)


if __name__ == "__main__":
    run_stage(main)
