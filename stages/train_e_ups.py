"""Stage `train_e_ups@member`: one network of the E-UPS ensemble on the train split."""

from __future__ import annotations

from antvisionps.models.e_ups import build_e_ups
from antvisionps.models.training_stage import train_on_train_split, training_options
from antvisionps.params import load_params
from antvisionps.stage import run_stage


def main() -> None:
    parser = training_options(__doc__)
    parser.add_argument("--member", required=True, help="one of train_e_ups.members")
    options = parser.parse_args()
    params = load_params(options.params)
    settings = params.train_e_ups
    train_on_train_split(
        options,
        end="e_ups",
        build=build_e_ups,
        network=settings.network(options.member),
        training=settings.keyword_arguments(),
        **params.runtime.training_arguments(),
    )


if __name__ == "__main__":
    run_stage(main)
