"""How a network starts from a trained detector: layer by layer, where both have the same one in the same shape.

The backbone has to be the file's, whole. Whatever else is not there, or of another shape, keeps its initialisation.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.dist import get_dist_info
from torch import Tensor, nn

from antvisionps.core.errors import ModelError
from antvisionps.models.training.class_rows import take_rows
from antvisionps.models.training.detector_files import DetectorFile, class_names, read_detector
from antvisionps.panoptic.categories import CategorySet

_SAME_LAYERS = (
    (r"^backbone\.network\.", "backbone."),  # timm's
    (r"^neck\.0\.", "neck."),  # the pyramid, where another neck follows it
    (r"(lateral_convs\.\d+)\.lateral\.", r"\1."),  # with UPSNet's context
    (r"^roi_head\.tower\.", "roi_head.mask_head."),  # of the location sensitive header
    (r"\.cls_fcs\.", ".shared_fcs."),
)
"""Names of a layer that mmdet's Mask R-CNN or HTC has under another → that one."""

_FURTHER_LAYERS = re.compile(r"^(rpn_head|roi_head\.bbox_head(?:\.\d)?)\.(?:rpn_conv\.\d|(?:shared|cls|reg)_convs)\.")
"""Convolutions that our heads lack: the layers above them know other features."""

_HEAD = re.compile(r"^(roi_head\.(?:bbox|mask)_head)\.(?:(\d)\.)?(?=\D)")
_PART = re.compile(r"^(neck\.1|roi_head\.\w+(?:\.\d(?=\.))?|\w+)")

_UNCOUNTED = "num_batches_tracked"
"""Of a batch norm; older files lack it, and nobody reads it."""

_OFFSETS = ".conv_offset."
"""Deformations of a backbone's convolutions, without which they are plain."""


@dataclass(frozen=True)
class Layer:
    """What a tensor of a network starts with: `tensor`, which the file calls `name_in_file`, or None for its
    initialisation. `note` tells why, or how many classes it knows."""

    name_in_file: str | None
    tensor: Tensor | None
    note: str


@dataclass(frozen=True)
class Start:
    """All of a network's `layers` by name, and the names of the file's tensors that are `unused`."""

    file: Path
    library: str
    layers: Mapping[str, Layer]
    unused: Sequence[str]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What is loaded, by the network's names."""
        return {name: layer.tensor for name, layer in self.layers.items() if layer.tensor is not None}

    def parts(self) -> list[str]:
        """For each part of the network, as its neck: how many of its tensors are loaded, and notes on them."""
        members: dict[str, list[Layer]] = {}
        for name, layer in self.layers.items():
            members.setdefault(_part(name), []).append(layer)
        return [_line(part, layers) for part, layers in members.items()]

    def describe(self, name: str) -> str:
        """For people, in some lines; `name` is the network's."""
        unused = [f"not used: {len(self.unused)} tensors, as {self.unused[0]}"] if self.unused else []
        return "\n  ".join([f"{name} starts from {self.file} ({self.library})", *self.parts(), *unused])

    def write(self, path: Path) -> None:
        """The same, tensor by tensor, as JSON."""
        notes = {name: layer.note for name, layer in self.layers.items() if layer.note}
        document = {"source": self.library, "loaded": list(self.tensors), "notes": notes, "unused": list(self.unused)}
        path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _part(name: str) -> str:
    match = _PART.match(name)
    return match[1] if match else name


def _line(part: str, layers: Sequence[Layer]) -> str:
    loaded = sum(layer.tensor is not None for layer in layers)
    notes = Counter(layer.note for layer in layers if layer.note)
    return f"{part}: {loaded} of {len(layers)}" + "".join(f"; {number} {note}" for note, number in notes.items())


def start_from(file: Path, model: nn.Module, categories: CategorySet) -> Start:
    """Loads what fits of a detector's file into a model of these categories, and tells what that was.

    Raises ModelError, and leaves the model alone, where the file cannot be read or its backbone is another.
    """
    start = match_layers(model.state_dict(), read_detector(file), categories)
    _refuse_other_backbone(start)
    model.load_state_dict(start.tensors, strict=False)
    return start


def announce_start(model: nn.Module, *, file: Path, categories: CategorySet, name: str, report: Path) -> None:
    """Starts the model of that name and tells so; every tensor's start goes to `report`. Of several processes, one
    tells and writes."""
    start = start_from(file, model, categories)
    if get_dist_info()[0] == 0:
        print(start.describe(name), flush=True)
        start.write(report)


def match_layers(wanted: Mapping[str, Tensor], detector: DetectorFile, categories: CategorySet) -> Start:
    """What a network with these tensors starts with."""
    sources = {_same_layer(name): name for name in detector.tensors if not name.endswith(_UNCOUNTED)}
    foreign = {match[1] for name in sources if (match := _FURTHER_LAYERS.match(name))}
    names = class_names(categories)
    layers = {}
    for name, own in wanted.items():
        if name.endswith(_UNCOUNTED):
            continue
        known = next((known for known in _known_as(name) if known in sources), None)
        if known is None:
            layers[name] = Layer(None, None, "not in the file")
        elif _part(known) in foreign:
            layers[name] = Layer(None, None, "left, as the file's has more convolutions below")
        else:
            tensor, note = take_rows(known, own, detector, sources[known], names)
            layers[name] = Layer(sources[known], tensor, note)
    used = {layer.name_in_file for layer in layers.values() if layer.tensor is not None}
    return Start(detector.path, detector.library, layers, [name for name in sources.values() if name not in used])


def _same_layer(name: str) -> str:
    for pattern, known in _SAME_LAYERS:
        name = re.sub(pattern, known, name)
    return name


def _known_as(name: str) -> list[str]:
    """The names under which a file can have a layer of ours, the best first.

    Every stage of a cascade can start from the head of a plain detector, which can start from a cascade's first. Only
    the first stage scales its box deltas as a plain detector does.
    """
    own = _same_layer(name)
    head = _HEAD.match(own)
    if head is None or (head[2] not in (None, "0") and ".fc_reg." in own):
        return [own]
    rest = own[head.end() :]
    return [own, f"{head[1]}.{rest}" if head[2] else f"{head[1]}.0.{rest}"]


def _refuse_other_backbone(start: Start) -> None:
    own = {name: layer for name, layer in start.layers.items() if _is_of_backbone(name)}
    if not any(layer.tensor is not None for layer in own.values()):
        held = ", ".join(sorted({name.partition(".")[0] for name in start.unused})[:4])
        raise ModelError(
            f"{start.file}: nothing of it fits the network's backbone; expected backbone.* of the same architecture, "
            f"got {held}; give a detector with this backbone (a classifier's file goes to backbone.weights)"
        )
    problems = [f"{name} {layer.note}" for name, layer in own.items() if layer.tensor is None]
    problems += [f"{name} is not part of the network's" for name in start.unused if _is_of_backbone(name)]
    if problems:
        raise ModelError(
            f"{start.file}: its backbone is another architecture: {problems[0]} ({len(problems)} tensors differ); give "
            "a detector with this backbone, or set backbone.name to the file's"
        )


def _is_of_backbone(name: str) -> bool:
    return name.startswith("backbone.") and _OFFSETS not in name
