"""Which layers learn from which loss."""

import pytest
import torch

from tests.models.conftest import E_UPS_EXTRAS, batch_of, build

CLASSES = ("roi_head.bbox_head.cls_fcs", "roi_head.bbox_head.fc_cls")
DELTAS = ("roi_head.bbox_head.reg_fcs", "roi_head.bbox_head.fc_reg")
TOWER, MASK = "roi_head.tower", "roi_head.mask_head"
SEMANTIC = ("semantic_head.classifier", "semantic_head.subnet", "semantic_head.norms")
E_UPS = {
    "loss_cls": CLASSES,
    "loss_bbox": (TOWER, *DELTAS),
    "loss_mask": (TOWER, MASK),
    "loss_panoptic": (TOWER, MASK, *SEMANTIC),
    "loss_semantic_roi": SEMANTIC,
}


def of_htcs_stage(stage: int) -> dict[str, tuple[str, ...]]:
    """Boxes and masks train the tower, and those before it by the mask flow; classes train their own layers."""
    box, mask = f"roi_head.bbox_head.{stage}.", f"roi_head.mask_head.{stage}."
    towers = [f"roi_head.mask_head.{k}.{part}" for k in range(stage + 1) for part in ("convs", "conv_res")]
    return {
        f"s{stage}.loss_cls": (f"{box}cls_fcs", f"{box}fc_cls"),
        f"s{stage}.loss_bbox": (*towers, f"{box}reg_fcs", f"{box}fc_reg"),
        f"s{stage}.loss_mask": (*towers, f"{mask}upsample", f"{mask}conv_logits"),
    }


NETWORKS = {
    "e_ups": (E_UPS_EXTRAS | {"mask_convs": 2}, E_UPS),
    "lwl_htc": (
        {"location_sensitive_header": True, "mask_convs": 2},
        of_htcs_stage(0) | of_htcs_stage(1) | of_htcs_stage(2),
    ),
}


@pytest.mark.parametrize(("end", "changes", "reached"), [(end, *row) for end, row in NETWORKS.items()], ids=NETWORKS)
def test_a_loss_trains_its_heads_and_what_they_share(dataset, end, changes, reached):
    network = build(end, **changes).train()
    losses = network(**batch_of(network, dataset, (0, 1)), mode="loss")
    learning = {name: p for name, p in network.named_parameters() if p.requires_grad}
    for loss, parts in reached.items():
        gradients = torch.autograd.grad(losses[loss], learning.values(), retain_graph=True, allow_unused=True)
        found = {name for name, gradient in zip(learning, gradients, strict=True) if gradient is not None}
        shared = {name for name in found if name.startswith(("backbone.", "neck.", "roi_head.semantic_head."))}
        assert found - shared == {name for name in learning if name.startswith(parts)}, loss
        assert {"neck.lateral_convs.0.conv.weight"} <= {name.replace("neck.0.", "neck.") for name in shared}
        assert end == "e_ups" or "roi_head.semantic_head.conv_embedding.conv.weight" in shared
