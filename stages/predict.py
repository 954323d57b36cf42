"""Stage `predict@end-split`: what an end's trained networks say of every image of a split, into the cache."""

from antvisionps.core.stage import run_stage, stage_parser
from antvisionps.models.inference.fill_caches import fill_caches, open_end
from antvisionps.models.inference.views import PredictionSettings
from antvisionps.models.training.processes import stage_processes
from antvisionps.panoptic.splits import dataset_fingerprint, open_split
from antvisionps.params.prediction import Predict
from antvisionps.params.runtime import Runtime
from antvisionps.params.section import load_section
from antvisionps.params.training import load_members, network_problem


def main() -> None:
    parser = stage_parser(__doc__, "prepared", "models", "work", "out")
    parser.add_argument("--end", required=True, help="one of ends")
    parser.add_argument("--split", required=True, choices=("heldout", "val"))
    arguments = parser.parse_args()
    settings = load_section(arguments.params, "predict", Predict)
    runtime = load_section(arguments.params, "runtime", Runtime)
    with stage_processes(**runtime.process_arguments()) as device:
        dataset = open_split(arguments.prepared, arguments.split)
        opened = open_end(
            dataset,
            end=arguments.end,
            split=arguments.split,
            dataset_fingerprint=dataset_fingerprint(arguments.prepared),
            member_weights=settings.weight_of_member(arguments.end, load_members(arguments.params, arguments.end)),
            find_problem=network_problem,
            max_proposals=settings.max_proposals,
            device=device,
            models_dir=arguments.models,
            out_dir=arguments.out,
        )
        how = PredictionSettings(**settings.keyword_arguments())
        fill_caches(dataset, [opened], how, work_dir=arguments.work)


if __name__ == "__main__":
    run_stage(main)
