"""What a network of an end offers at test time."""

from typing import Any, Protocol

from mmdet.structures import DetDataSample
from torch import Tensor, nn


class SemanticScorer(Protocol):
    """A network that predicts semantics. `features` is whatever `extract` returned for one image."""

    semantic_stride: int
    """Pixels of the input between the cells of the semantic grid."""

    data_preprocessor: nn.Module
    """Normalises and pads a batch, as in training."""

    def extract(self, images: Tensor) -> Any:
        """Features of a normalised, padded (1, 3, H, W) batch; computed once, used by all other steps."""

    def semantic_probabilities(self, features: Any) -> Tensor:
        """(C, h, w) probabilities of all classes on the network's own output grid."""


class BoxScorer(SemanticScorer, Protocol):
    """One that predicts instances too, in steps that let several networks score the same boxes.

    Boxes are xyxy in pixels of the network's input.
    """

    def propose(self, features: Any, sample: DetDataSample) -> tuple[Tensor, Tensor]:
        """Region proposals: boxes (P, 4) and objectness scores (P,), best first."""

    def score_boxes(self, features: Any, boxes_xyxy: Tensor, input_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Refined boxes (P, 4) or (P, 4 * things), and class probabilities (P, things + 1), background last."""

    def mask_logits(self, features: Any, boxes_xyxy: Tensor, class_indices: Tensor) -> Tensor:
        """(K, 28, 28) mask logits inside each box, of its class."""


def has_boxes(network: SemanticScorer) -> bool:
    """Whether it is a BoxScorer. From Python 3.12 on isinstance sees no submodule, as data_preprocessor is one."""
    return hasattr(network, "score_boxes")
