"""What a page or metrics are made of: data set, weights, packages; no time, host or commit, which change no number."""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from antvisionps.predictions.split_caches import SplitCaches

PACKAGES = ("antvisionps", "numpy", "numba", "opencv-python-headless", "pycocotools", "torch")
"""Those whose versions may move a number; torch where predictions are made."""


def provenance(caches: SplitCaches, ends: Sequence[str]) -> dict[str, Any]:
    """{dataset, weights, versions}: the fingerprint, sha256 by end, and version by package."""
    weights = _weights_sha256(caches, ends) if ends else {}
    return {
        "dataset": caches.dataset_fingerprint,
        "weights": {end: weights[end] for end in ends if end in weights},
        "versions": package_versions(),
    }


def _weights_sha256(caches: SplitCaches, ends: Sequence[str]) -> dict[str, str]:
    of_instances = {end: reader.header.weights_sha256 for end, reader in caches.open_instances(ends).items()}
    return of_instances | {end: reader.header.weights_sha256 for end, reader in caches.open_semantics(ends).items()}


def package_versions() -> dict[str, str]:
    """Of PACKAGES that are installed."""
    return {package: found for package in PACKAGES if (found := _version(package))}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
