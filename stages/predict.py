"""Stages `predict@end` and `predict_shared@pair`: what trained networks say of every held-out and val image, into the
cache. Two ends are predicted in one pass, which computes the features of their frozen backbone once."""

from antvisionps.core.stage import run_stage, stage_parser
from antvisionps.models.inference.end_networks import open_networks
from antvisionps.models.inference.fill_caches import fill_caches
from antvisionps.models.inference.shared_backbone import share_backbone
from antvisionps.models.inference.views import PredictionSettings
from antvisionps.models.training.processes import stage_processes
from antvisionps.panoptic.splits import dataset_fingerprint, open_split
from antvisionps.params.prediction import Predict
from antvisionps.params.runtime import Runtime
from antvisionps.params.section import load_section
from antvisionps.params.training import load_members, network_problem


def main() -> None:
    parser = stage_parser(__doc__, "prepared", "models", "work", "predictions")
    parser.add_argument("--ends", nargs="+", required=True, help="one of ends, or two that share a frozen backbone")
    arguments = parser.parse_args()
    settings = load_section(arguments.params, "predict", Predict)
    runtime = load_section(arguments.params, "runtime", Runtime)
    with stage_processes(**runtime.process_arguments()) as device:
        splits = {split: open_split(arguments.prepared, split) for split in ("heldout", "val")}
        ends = {
            end: open_networks(
                arguments.models / end,
                settings.weight_of_member(end, load_members(arguments.params, end)),
                end=end,
                find_problem=network_problem,
                categories=splits["val"].categories,
                max_proposals=settings.max_proposals,
                device=device,
                snapshots=settings.snapshots,
                soup=settings.soup,
            )
            for end in arguments.ends
        }
        if len(ends) > 1:
            share_backbone(list(ends.values()), num_views=settings.num_views)
        fill_caches(
            ends,
            splits,
            PredictionSettings(**settings.keyword_arguments()),
            dataset_fingerprint=dataset_fingerprint(arguments.prepared),
            work_dir=arguments.work,
            predictions_dir=arguments.predictions,
        )


if __name__ == "__main__":
    run_stage(main)
