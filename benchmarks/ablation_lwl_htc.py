"""Learned uncertainty and the DC head, alone and together, on the same budget: Table 2 in small.

    python -m benchmarks.ablation_lwl_htc                    # params.yaml, 4 variants x 3 seeds, into docs/ablations.md
    python -m benchmarks.ablation_lwl_htc --iterations 300   # a larger budget

Every run that is finished is kept below --work, so that it may be interrupted.
"""

from __future__ import annotations

from benchmarks.ablation import run_ablation

VARIANTS = {
    "vanilla": {"uncertainty": None, "deformable_semantic_head": None},
    "+ uncertainty": {"uncertainty": "task", "deformable_semantic_head": None},
    "+ DC head": {"uncertainty": None, "deformable_semantic_head": "per_level"},
    "+ uncertainty + DC head": {"uncertainty": "task", "deformable_semantic_head": "per_level"},
}

if __name__ == "__main__":
    run_ablation(
        __doc__,
        end="lwl_htc",
        variants=VARIANTS,
        heading="LWL-HTC: learned uncertainty and DC head",
        command="make ablation-lwl-htc",
    )
