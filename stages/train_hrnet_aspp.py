"""Stage `train_hrnet_aspp@member`: one network of the HRNet-ASPP ensemble on the train split."""

from antvisionps.core.stage import run_stage, stage_parser
from antvisionps.models.hrnet_aspp.network import build_hrnet_aspp
from antvisionps.models.monitor.measure import measure
from antvisionps.models.training.settings import TrainingSettings
from antvisionps.models.training.stage import train_on_train_split
from antvisionps.params.runtime import Runtime
from antvisionps.params.section import load_section
from antvisionps.params.training import TrainHrnetAspp


def main() -> None:
    parser = stage_parser(__doc__, "prepared", "work", "out")
    parser.add_argument("--member", required=True, help="one of train_hrnet_aspp.members")
    options = parser.parse_args()
    settings = load_section(options.params, "train_hrnet_aspp", TrainHrnetAspp)
    runtime = load_section(options.params, "runtime", Runtime)
    train_on_train_split(
        options,
        end="hrnet_aspp",
        build=build_hrnet_aspp,
        network=settings.network(options.member),
        load_from=settings.load_from(options.member),
        settings=TrainingSettings(**settings.keyword_arguments()),
        measure=measure,
        **runtime.training_arguments(),
    )


if __name__ == "__main__":
    run_stage(main)
