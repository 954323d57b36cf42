"""mmcv's operators on torchvision's kernels, against numbers recorded from compiled mmcv 2.3 on a CPU."""

import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import mmcv
import numpy as np
import pytest
import torch
from mmcv.cnn import build_conv_layer

from antvisionps.core.errors import ModelError
from antvisionps.models.blocks import mmcv_ops as ops

ops.install_ops()

import mmcv.ops

if not ops.install_ops().startswith("torchvision"):
    pytest.skip("a compiled mmcv serves its own operators", allow_module_level=True)

RECORDED = np.load(Path(__file__).parents[2] / "data" / "mmcv_ops_cpu.npz")
CONV_GEOMETRY = ("stride", "padding", "dilation", "groups", "deform_groups")
CUDA = pytest.param(
    "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"), id="cuda"
)
devices = pytest.mark.parametrize("device", ["cpu", CUDA])


def recorded(name: str, device: str = "cpu") -> dict[str, torch.Tensor]:
    arrays = {key.split("/")[1]: RECORDED[key] for key in RECORDED.files if key.split("/")[0] == name}
    assert arrays
    return {key: torch.from_numpy(array).to(device) for key, array in arrays.items()}


def names(prefix: str) -> list[str]:
    return sorted({key.split("/")[0] for key in RECORDED.files if key.startswith(prefix)})


def assert_close(actual: torch.Tensor, expected: torch.Tensor, atol: float = 2e-5) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=atol)


@devices
@pytest.mark.parametrize("name", names("nms"))
def test_nms_keeps_what_compiled_mmcv_keeps(name, device):
    case = recorded(name, device)
    dets, keep = mmcv.ops.nms(case["boxes"], case["scores"], iou_threshold=float(name.split("_")[1]))
    assert sorted(keep.tolist()) == sorted(case["keep"].tolist())
    assert torch.equal(case["scores"][keep], case["scores"][case["keep"]])
    assert torch.equal(dets, torch.cat([case["boxes"][keep], case["scores"][keep, None]], dim=1))


@devices
def test_batched_nms_keeps_what_compiled_mmcv_keeps(device):
    case = recorded("batched_nms", device)
    _, keep = mmcv.ops.batched_nms(case["boxes"], case["scores"], case["idxs"], {"type": "nms", "iou_threshold": 0.5})
    assert sorted(keep.tolist()) == sorted(case["keep"].tolist())


@pytest.mark.parametrize(("offset", "kept"), [(0, [0, 1]), (1, [0])])
def test_nms_with_offset_counts_the_last_pixel_into_the_box(offset, kept):
    # IoU is 1/3 without and 6/12 with the last pixel.
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 1, 2, 3]])
    _, keep = mmcv.ops.nms(boxes, torch.tensor([0.9, 0.8]), iou_threshold=0.45, offset=offset)
    assert keep.tolist() == kept


def test_nms_takes_arrays_score_threshold_limit_and_no_boxes():
    boxes = np.array([[0, 0, 4, 4], [10, 10, 14, 14], [20, 20, 24, 24]], dtype=np.float32)
    scores = np.array([0.2, 0.9, 0.5], dtype=np.float32)
    dets, keep = mmcv.ops.nms(boxes, scores, iou_threshold=0.5, score_threshold=0.3, max_num=1)
    assert isinstance(keep, np.ndarray)
    assert keep.tolist() == [1]
    assert dets.shape == (1, 5)
    dets, keep = mmcv.ops.nms(torch.zeros(0, 4), torch.zeros(0), iou_threshold=0.5)
    assert dets.shape == (0, 5)
    assert keep.shape == (0,)
    _, keep = mmcv.ops.nms(torch.tensor([[0.0, 0, 9, 9]] * 2), torch.ones(2), iou_threshold=0.5)
    assert keep.tolist() == [0]  # of equal scores the lower row


@devices
@pytest.mark.parametrize("name", names("roi_align"))
def test_roi_align_gives_the_numbers_of_compiled_mmcv(name, device):
    case = recorded(name, device)
    features = case["input"].clone().requires_grad_()
    layer = mmcv.ops.RoIAlign(
        int(case["output_size"]),
        spatial_scale=float(case["spatial_scale"]),
        sampling_ratio=int(case["sampling_ratio"]),
        aligned=bool(case["aligned"]),
    )
    output = layer(features, case["rois"])
    output.backward(case["grad_output"])
    assert_close(output, case["output"])
    assert_close(features.grad, case["grad_input"])


def test_roi_align_of_no_boxes_is_empty_and_of_maxima_is_refused():
    features = torch.rand(2, 3, 8, 8)
    assert mmcv.ops.RoIAlign(7)(features, torch.zeros(0, 5)).shape == (0, 3, 7, 7)
    with pytest.raises(ModelError, match="pool_mode 'max'"):
        mmcv.ops.RoIAlign(7, pool_mode="max")(features, torch.tensor([[0.0, 0, 0, 4, 4]]))


@devices
@pytest.mark.parametrize("name", [*names("deform_conv"), *names("modulated_deform_conv")])
def test_deformable_convolutions_give_the_numbers_of_compiled_mmcv(name, device):
    case = recorded(name, device)
    keys = ("input", "offset", "mask", "weight", "bias") if "mask" in case else ("input", "offset", "weight")
    convolve = mmcv.ops.modulated_deform_conv2d if "mask" in case else mmcv.ops.deform_conv2d
    tensors = [case[key].clone().requires_grad_() for key in keys]
    output = convolve(*tensors, *(int(case[key]) for key in CONV_GEOMETRY))
    output.backward(case["grad_output"])
    assert_close(output, case["output"])
    for key, tensor in zip(keys, tensors, strict=True):
        assert_close(tensor.grad, case[f"grad_{key}"], atol=1e-4)


@pytest.mark.parametrize(("kind", "modulation"), [("DCN", 1.0), ("DCNv2", 0.5)])
def test_a_fresh_deformable_layer_is_a_convolution_of_batches_of_any_size(kind, modulation):
    layer = build_conv_layer({"type": kind}, 4, 6, 3, padding=1, stride=2, bias=False)
    for features in (torch.rand(33, 4, 9, 8), torch.rand(0, 4, 9, 8)):
        convolved = torch.nn.functional.conv2d(features, layer.weight, stride=2, padding=1)
        assert_close(layer(features), modulation * convolved)


@devices
def test_a_deformable_layer_trains_under_autocast(device):
    layer = build_conv_layer({"type": "DCN"}, 4, 4, 3, padding=1, bias=False).to(device)
    features = torch.rand(2, 4, 8, 8, device=device, requires_grad=True)
    exact = layer(features)
    with torch.autocast(device, torch.bfloat16):
        output = layer(features)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), exact, rtol=2e-2, atol=2e-2)
    output.sum().backward()
    for tensor in (features, layer.weight, layer.conv_offset.weight, layer.conv_offset.bias):
        assert tensor.grad.dtype == torch.float32
        assert tensor.grad.isfinite().all()
        assert tensor.grad.any()


@devices
def test_roi_align_takes_half_precision_features(device):
    features = torch.rand(1, 4, 16, 16, device=device)
    rois = torch.tensor([[0.0, 1, 2, 11, 13]], device=device)
    exact = mmcv.ops.RoIAlign(7)(features, rois)
    halved = features.bfloat16().requires_grad_()
    output = mmcv.ops.RoIAlign(7)(halved, rois)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), exact, rtol=2e-2, atol=2e-2)
    output.sum().backward()
    assert halved.grad.dtype == torch.bfloat16


def test_a_bias_of_deform_conv_v1_and_an_operator_that_nobody_serves_are_refused_when_called():
    with pytest.raises(ModelError, match="has no bias"):
        mmcv.ops.deform_conv2d(*torch.zeros(3, 1, 1, 1, 1), 1, 0, 1, 1, 1, True)
    with pytest.raises(ModelError, match="operator softnms needs a compiled mmcv"):
        mmcv.ops.soft_nms(torch.rand(3, 4), torch.rand(3))


def test_mmengine_and_mmcv_can_describe_the_environment():
    assert mmcv.ops.get_compiler_version() == mmcv.ops.get_compiling_cuda_version() == "none"
    assert importlib.util.find_spec(ops.EXT_NAME) is not None


@pytest.fixture
def compiled_folder(tmp_path, monkeypatch) -> Path:
    """A folder where mmcv looks for its compiled module first, as in an interpreter that has not loaded it yet."""
    monkeypatch.setattr(mmcv, "__path__", [str(tmp_path), *mmcv.__path__])
    monkeypatch.delitem(sys.modules, ops.EXT_NAME)
    monkeypatch.delattr(mmcv, "_ext", raising=False)
    return tmp_path


def test_a_compiled_mmcv_that_fails_to_load_is_named_and_replaced(compiled_folder, monkeypatch):
    library = compiled_folder / f"_ext{importlib.machinery.EXTENSION_SUFFIXES[0]}"
    library.write_bytes(b"built for another torch")
    with pytest.warns(RuntimeWarning, match=rf"{library} does not load.*(ELF|file too short|not a mach-o)"):
        assert ops.install_ops.__wrapped__().startswith("torchvision")
    monkeypatch.setitem(sys.modules, ops.EXT_NAME, sys.modules[ops.EXT_NAME])
    assert len(mmcv.ops.nms(torch.rand(1, 4), torch.rand(1), iou_threshold=0.5)[1]) == 1


def test_a_compiled_mmcv_that_loads_is_left_alone(compiled_folder):
    (compiled_folder / "_ext.py").write_text("origin = 'compiled'\n")
    assert ops.install_ops.__wrapped__() == f"compiled mmcv {mmcv.__version__}"
    extension = sys.modules.pop(ops.EXT_NAME)
    assert isinstance(extension, ModuleType)
    assert extension.origin == "compiled"


@pytest.mark.parametrize("wild", [float("nan"), float("inf")])
def test_positions_that_are_not_finite_are_an_error_and_not_a_crash(wild):
    conv = mmcv.ops.DeformConv2d(2, 2, 3, padding=1)
    with pytest.raises(ModelError, match="an offset is not finite"):
        conv(torch.zeros(1, 2, 6, 6), torch.full((1, 18, 6, 6), wild))
    boxes = torch.tensor([[0.0, 0.0, 0.0, wild, 4.0]])
    with pytest.raises(ModelError, match="a box is not finite"):
        mmcv.ops.roi_align(torch.zeros(1, 2, 6, 6), boxes, 2)
