"""Libra's balanced pyramid and the location sensitive header, alone and together, on the same budget: Table 1 in small.

    python -m benchmarks.ablation_e_ups                     # params.yaml, 4 variants x 3 seeds, into docs/ablations.md
    python -m benchmarks.ablation_e_ups --iterations 300    # a larger budget

Every run that is finished is kept below --work, so that it may be interrupted.
"""

from __future__ import annotations

from benchmarks.ablation import run_ablation

VARIANTS = {
    "vanilla": {"balanced_pyramid_level": None, "location_sensitive_header": False},
    "+ BFP": {"balanced_pyramid_level": 2, "location_sensitive_header": False},
    "+ LSH": {"balanced_pyramid_level": None, "location_sensitive_header": True},
    "+ BFP + LSH": {"balanced_pyramid_level": 2, "location_sensitive_header": True},
}

if __name__ == "__main__":
    run_ablation(
        __doc__,
        end="e_ups",
        variants=VARIANTS,
        heading="E-UPS: balanced pyramid and location sensitive header",
        command="make ablation-e-ups",
    )
