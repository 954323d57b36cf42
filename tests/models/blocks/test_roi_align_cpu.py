"""RoIAlign on a CPU and its gradient against torchvision's own kernel, in float64."""

import pytest
import torch
from torchvision.ops import roi_align as torchvisions

from antvisionps.models.blocks.roi_align_cpu import roi_align, roi_align_backward

ODD_BOXES = [
    [-30, -20, 50, 60],  # larger than the picture
    [70, 10, 90, 30],  # outside
    [-9, -9, -8.5, -8.5],
    [3, 3, 3, 3],  # empty
    [20, 20, 10, 5],  # turned inside out
    [0, 0, 44, 36],  # the picture
    [41.9, 33.8, 44, 36],  # its last cells
    [8, 8, 16, 16],  # on whole cells
]


def boxes(count: int) -> torch.Tensor:
    """(K, 5) with some odd ones, in no order of images; the third of four images has none."""
    corners = torch.rand(count, 2, dtype=torch.float64) * 40
    drawn = torch.cat([corners, corners + torch.rand(count, 2, dtype=torch.float64) * 30], dim=1)
    xyxy = torch.cat([drawn, torch.tensor(ODD_BOXES, dtype=torch.float64)])
    image = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)[torch.randint(3, (len(xyxy),))]
    return torch.cat([image[:, None], xyxy], dim=1)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2])
@pytest.mark.parametrize(("out_hw", "scale"), [((7, 7), 0.25), ((14, 3), 1.0)])
def test_output_and_gradient_are_those_of_torchvisions_kernel(out_hw, scale, sampling_ratio, aligned):
    torch.manual_seed(5)
    features = torch.randn(4, 3, 9, 11, dtype=torch.float64, requires_grad=True)
    rois = boxes(200)
    how = {"sampling_ratio": sampling_ratio, "aligned": aligned}
    output = torchvisions(features, rois, out_hw, scale, **how)
    torch.testing.assert_close(roi_align(features.detach(), rois, out_hw, scale=scale, **how), output)
    grad_output = torch.randn_like(output)
    output.backward(grad_output)
    gradient = roi_align_backward(grad_output, rois, features.shape, scale=scale, **how)
    torch.testing.assert_close(gradient, features.grad)


def test_no_box_gives_nothing():
    how = {"scale": 1.0, "sampling_ratio": 0, "aligned": True}
    gradient = roi_align_backward(torch.zeros(0, 3, 7, 7), torch.zeros(0, 5), (2, 3, 5, 5), **how)
    assert torch.equal(gradient, torch.zeros(2, 3, 5, 5))
