"""What `antvisionps doctor` says about an installation: what is there, what is missing, and the command that mends it.

Works in the base install, without torch. What has to be there is read from the package's own metadata.
"""

import importlib
import os
import platform
import shutil
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from antvisionps.core.errors import ParamsError
from antvisionps.params.whole import load_params

Severity = Literal["ok", "note", "wrong"]

MODULES_THAT_BREAK = ("cv2", "pyarrow", "torch", "torchvision")
"""Modules with shared libraries of their own: installed does not mean that they load."""

PURPOSE_OF_EXTRA = {
    "models": "training and prediction need it",
    "pipeline": "`dvc repro` needs it",
    "figures": "only `antvisionps figure` needs it",
    "notebooks": "only `plot` and `to_pandas` in notebooks need it",
    "loggers": "only runtime.loggers needs it",
    "cluster": "only runtime.backend dask needs it",
}
OPTIONAL = ("figures", "notebooks", "loggers", "cluster")
NOT_LOCKED = ("notebooks", "loggers")
"""Packages that make each start of a stage longer wherever they are installed."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `note`: fine without, or worth knowing; `wrong`: some stage fails."""

    severity: Severity
    subject: str
    message: str
    remedy: str | None = None


def examine(project_root: Path) -> Iterator[Finding]:
    """Findings about the interpreter, packages, shared libraries, kernels, devices and params.yaml, in that order."""
    yield Finding("ok", "python", f"{platform.python_version()} ({sys.executable})")
    packages = list(_packages(project_root))
    yield from packages
    yield from _modules(project_root)
    if all(_is_installed(name) for name in ("torch", "torchvision", "onedl-mmcv")):
        yield from _models()
    yield from _programs(project_root)
    yield from _params(project_root / "params.yaml")


def _packages(project_root: Path) -> Iterator[Finding]:
    try:
        requirements = [Requirement(line) for line in metadata.requires("antvisionps") or []]
    except metadata.PackageNotFoundError:
        yield Finding("wrong", "antvisionps", "not installed", f"{sys.executable} -m pip install --no-deps -e .")
        return
    yield Finding("ok", "antvisionps", metadata.version("antvisionps"))
    for requirement in requirements:
        extra = _extra_of(requirement)
        if extra == "dev":
            continue
        purpose = PURPOSE_OF_EXTRA.get(extra, "everything needs it")
        severity: Severity = "note" if extra in OPTIONAL else "wrong"
        remedy = _install_command(project_root, extra)
        if not _is_installed(requirement.name):
            yield Finding(severity, requirement.name, f"missing; {purpose}", remedy)
            continue
        version = metadata.version(requirement.name)
        if requirement.specifier.contains(version, prereleases=True):
            yield Finding("ok", requirement.name, version)
        else:
            yield Finding(severity, requirement.name, f"{version}, expected {requirement.specifier}; {purpose}", remedy)


def _extra_of(requirement: Requirement) -> str:
    """The extra that asks for it: "" for the base install, dev for what no other does."""
    if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
        return ""
    return next((extra for extra in PURPOSE_OF_EXTRA if requirement.marker.evaluate({"extra": extra})), "dev")


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _install_command(project_root: Path, extra: str) -> str:
    if extra not in NOT_LOCKED and (project_root / "requirements.lock").exists():
        return f"{sys.executable} -m pip install --no-deps -r requirements.lock"
    return f"{sys.executable} -m pip install 'antvisionps[{extra}]'" if extra else "pip install --upgrade antvisionps"


def _modules(project_root: Path) -> Iterator[Finding]:
    for name in MODULES_THAT_BREAK:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:  # else it is listed as missing already
                yield Finding("wrong", name, f"does not load: {error}", _install_command(project_root, "models"))
        except (ImportError, OSError) as error:
            remedy = _install_command(project_root, "models" if name.startswith("torch") else "")
            if name == "cv2":
                remedy = (
                    f"{sys.executable} -m pip uninstall --yes opencv-python opencv-python-headless && {remedy}"
                    "  # opencv-python needs libGL, the headless build does not"
                )
            yield Finding("wrong", name, f"does not load: {error}", remedy)


def _models() -> Iterator[Finding]:
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        try:
            from antvisionps.models.blocks.mmcv_ops import SERVED_OPS, install_ops

            kernels = install_ops()
            importlib.import_module("mmdet")
        except (ImportError, AssertionError) as error:  # mmdet asserts the versions of mmcv and mmengine
            yield Finding("wrong", "mmdet", f"does not load: {error}")
            return
    yield from (Finding("note", "mmcv", str(w.message)) for w in caught if w.category is RuntimeWarning)
    served = "" if kernels.startswith("compiled") else f" ({', '.join(SERVED_OPS)})"
    yield Finding("ok", "mmcv's operators", f"served by {kernels}{served}")
    yield Finding("ok", "cpu", f"{os.cpu_count()} cores, {torch.get_num_threads()} torch threads")
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory_gib = properties.total_memory / 2**30
        yield Finding("ok", f"cuda:{index}", f"{properties.name}, {memory_gib:.0f} GiB, CUDA {torch.version.cuda}")
    if not torch.cuda.is_available():
        yield Finding("note", "cuda", "no device that this torch can use; stages run on the CPU")


def _programs(project_root: Path) -> Iterator[Finding]:
    if shutil.which("git") is None:
        yield Finding("wrong", "git", "not on PATH; DVC needs it", "install git with the system's package manager")
    if not (project_root / "dvc.yaml").exists():
        return
    python = shutil.which("python")
    # Not the files: an environment's `python` is a link to the one that it was made from.
    if python is None or Path(python).parent.resolve() != Path(sys.executable).parent.resolve():
        activate = Path(sys.prefix) / "bin" / "activate"
        yield Finding(
            "note",
            "PATH",
            f"dvc.yaml calls `python`, which is {python or 'nothing'} here and not {sys.executable}",
            f"source {activate}  # make does without",
        )


def _params(path: Path) -> Iterator[Finding]:
    try:
        params = load_params(path)
    except ParamsError as error:
        yield Finding("wrong", "params.yaml", str(error), "mend the lines named above, or: git checkout -- params.yaml")
        return
    yield Finding("ok", "params.yaml", f"valid: ends {', '.join(params.all_ends)}; data {params.prepare.source}")
    if params.runtime.device == "cuda" and _is_installed("torch"):
        import torch

        if not torch.cuda.is_available():
            remedy = "set runtime.device to auto in params.yaml"
            yield Finding("wrong", "runtime.device", "params.yaml asks for cuda, and there is no such device", remedy)
