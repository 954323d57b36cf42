"""Where the pipeline's folders are, as dvc.yaml says: paths stand there and nowhere else."""

from dataclasses import dataclass, fields
from pathlib import Path

from antvisionps.core.errors import ParamsError
from antvisionps.params.section import parse, read_text

PARAMS, METRICS = "params.yaml", "metrics/panoptic.json"
"""What git keeps of a run: how it was made, and its panoptic quality."""


@dataclass(frozen=True)
class PipelinePaths:
    """Folders of stages' outputs, named as in `vars` of dvc.yaml."""

    prepared: Path
    imports: Path
    models: Path
    predictions: Path
    routing: Path
    calibration: Path
    fused: Path
    scores: Path


def read_pipeline_paths(project_root: Path) -> PipelinePaths:
    """The folders by the project's dvc.yaml. Raises ParamsError without one, or without one of them in its `vars`."""
    path = project_root / "dvc.yaml"
    document = parse(path, read_text(path))
    try:
        place_of = {name: project_root / place for entry in document["vars"] for name, place in entry.items()}
        return PipelinePaths(**{field.name: place_of[field.name] for field in fields(PipelinePaths)})
    except (KeyError, TypeError, AttributeError) as error:
        raise ParamsError(f"{path}: expected the folders of the stages under `vars` ({error})") from error
