"""Stage `train_hrnet_aspp@member`: one network of the HRNet-ASPP ensemble on the train split."""

from __future__ import annotations

from antvisionps.models.hrnet_aspp import build_hrnet_aspp
from antvisionps.models.training_stage import train_on_train_split, training_options
from antvisionps.params import load_params
from antvisionps.stage import run_stage


def main() -> None:
    parser = training_options(__doc__)
    parser.add_argument("--member", required=True, help="one of train_hrnet_aspp.members")
    options = parser.parse_args()
    params = load_params(options.params)
    settings = params.train_hrnet_aspp
    train_on_train_split(
        options,
        end="hrnet_aspp",
        build=build_hrnet_aspp,
        network=settings.network(options.member),
        training=settings.keyword_arguments(),
        **params.runtime.training_arguments(),
    )


if __name__ == "__main__":
    run_stage(main)
