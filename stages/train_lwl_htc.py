"""Stage `train_lwl_htc`: the LWL-HTC network on the train split."""

from __future__ import annotations

from antvisionps.models.lwl_htc import build_lwl_htc
from antvisionps.models.training_stage import train_on_train_split, training_options
from antvisionps.params import load_params
from antvisionps.stage import run_stage


def main() -> None:
    parser = training_options(__doc__)
    options = parser.parse_args()
    params = load_params(options.params)
    settings = params.train_lwl_htc
    train_on_train_split(
        options,
        end="lwl_htc",
        build=build_lwl_htc,
        network=settings.network.model_dump(mode="json"),
        training=settings.keyword_arguments(),
        **params.runtime.training_arguments(),
    )


if __name__ == "__main__":
    run_stage(main)
