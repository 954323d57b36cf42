"""Networks that start from detectors of torchvision, of mmdet and of ours: they compute what the detectors did."""

import functools
import json
import re
from pathlib import Path

import mmdet
import numpy as np
import pytest
import torch
import torchvision
from mmdet.models.detectors import MaskRCNN
from mmengine.config import Config, ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.runner import save_checkpoint
from safetensors.torch import save_file
from torchvision.models.detection import mask_rcnn as tv
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead

from antvisionps.core.errors import ModelError
from antvisionps.models.inference.end_networks import BUILDERS
from antvisionps.models.training.member import train_member
from antvisionps.models.training.start import start_from
from antvisionps.models.training.weights import load_weights, read_network, save_weights
from tests.drawing import category_set
from tests.models.conftest import NETWORK, NETWORKS, TRAINING, build
from tests.models.inference.test_against_mmdet import mmdets_htc, narrowed, resnet_htc

CHANNELS, FC_CHANNELS, MASK_CONVS = 16, 32, 2
OURS = {
    "backbone": NETWORK["backbone"] | {"name": "resnet18"},
    "fpn_channels": CHANNELS,
    "box_fc_channels": FC_CHANNELS,
    "mask_convs": MASK_CONVS,
    "anchor_scale": 8.0,
}
CATEGORIES = category_set({1: "dog", 2: "person"}, {3: "sky", 4: "grass"})
COCO = tv.MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
COCO_CLASSES = len(COCO)
DOG, PERSON = COCO.index("dog"), COCO.index("person")


def network(end="e_ups", **changes):
    return build(end, seed=7, **OURS | changes).eval()


def start(file, end="e_ups", *, categories=CATEGORIES, **changes):
    """Our network, started from the file, and how."""
    ours = network(end, **changes)
    return ours, start_from(Path(file), ours, categories)


def randomised(model):
    """Every weight and statistic drawn anew, so that no two layers are alike."""
    generator = torch.Generator().manual_seed(3)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0, generator=generator)
        elif tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * (0.1 if tensor.ndim > 1 else 0.5))
    return model.eval()


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@functools.cache
def torchvisions(*, num_classes=COCO_CLASSES, version=1):
    """torchvision's Mask R-CNN, narrow, on a ResNet-18; version 2 has its batch norms and further convolutions."""
    norm = torch.nn.BatchNorm2d if version == 2 else None
    layers = {f"layer{k + 1}": str(k) for k in range(4)}
    resnet = torchvision.models.resnet18()
    pyramid = BackboneWithFPN(resnet, layers, [64, 128, 256, 512], CHANNELS, norm_layer=norm)
    further = {}
    if version == 2:
        further = {
            "rpn_head": RPNHead(CHANNELS, 3, conv_depth=2),
            "box_head": FastRCNNConvFCHead((CHANNELS, 7, 7), [CHANNELS] * 2, [FC_CHANNELS], norm_layer=norm),
        }
    heads = {
        "box_head": TwoMLPHead(CHANNELS * 49, FC_CHANNELS),
        "box_predictor": FastRCNNPredictor(FC_CHANNELS, num_classes),
        "mask_head": tv.MaskRCNNHeads(CHANNELS, [CHANNELS] * MASK_CONVS, 1, norm_layer=norm),
        "mask_predictor": tv.MaskRCNNPredictor(CHANNELS, CHANNELS, num_classes),
    }
    return randomised(tv.MaskRCNN(pyramid, **heads | further))


def saved(model, folder, name="detector.pth"):
    torch.save(model.state_dict(), folder / name)
    return folder / name


def older_names(state):
    """As in the files of torchvision's COCO detectors, which are older than its wrapped convolutions."""
    renamed = {}
    for name, tensor in state.items():
        name = re.sub(r"(inner_blocks|layer_blocks)\.(\d)\.0\.", r"\1.\2.", name)
        name = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        name = re.sub(r"mask_head\.(\d)\.0\.", lambda match: f"mask_head.mask_fcn{int(match[1]) + 1}.", name)
        renamed[name] = tensor
    return renamed


def assert_same_features(ours, theirs):
    images = noise(1, 3, 64, 96)
    expected = list(theirs.backbone(images).values())
    torch.testing.assert_close(list(ours.extract_feat(images)), expected, rtol=1e-4, atol=1e-4)
    return expected


def assert_same_masks(ours, theirs):
    features = noise(4, CHANNELS, 14, 14)
    expected = theirs.roi_heads.mask_predictor(theirs.roi_heads.mask_head(features))
    torch.testing.assert_close(ours.roi_head.mask_head(features), expected[:, [DOG, PERSON]], rtol=1e-4, atol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("are_older", [False, True])
def test_torchvisions_detector_computes_the_same_in_our_network(tmp_path, are_older):
    theirs = torchvisions()
    state = theirs.state_dict()
    if are_older:
        state = older_names(state)
        state.pop("_metadata", None)
        assert state.keys() != theirs.state_dict().keys()
        theirs.load_state_dict(dict(state))  # torchvision knows these names
    torch.save(dict(state), tmp_path / "detector.pth")
    ours, how = start(tmp_path / "detector.pth")
    assert [line for line in how.parts() if "not in" in line] == ["semantic_head: 0 of 8; 8 not in the file"]
    assert how.unused == []

    pyramid = assert_same_features(ours, theirs)
    logits, deltas = theirs.rpn.head(pyramid)
    torch.testing.assert_close(ours.rpn_head(tuple(pyramid)), (logits, deltas), rtol=1e-4, atol=1e-4)
    features = noise(4, CHANNELS, 7, 7)
    logits, deltas = theirs.roi_heads.box_predictor(theirs.roi_heads.box_head(features))
    got_logits, got_deltas = ours.roi_head.bbox_head(features)
    torch.testing.assert_close(got_logits, logits[:, [DOG, PERSON, 0]], rtol=1e-4, atol=1e-4)
    boxes = torch.tensor([[4.0, 6.0, 40.0, 50.0]]).repeat(4, 1)
    expected = theirs.roi_heads.box_coder.decode(deltas, [boxes])[:, [DOG, PERSON]]
    got = ours.roi_head.bbox_head.bbox_coder.decode(boxes, got_deltas)
    torch.testing.assert_close(got.reshape(4, 2, 4), expected, rtol=1e-4, atol=1e-3)
    assert_same_masks(ours, theirs)


def test_torchvisions_anchors_stand_in_our_order():
    sizes = [(32 // s, 48 // s) for s in (1, 2, 4, 8, 16)]
    images = torchvision.models.detection.image_list.ImageList(torch.zeros(1, 3, 128, 192), [(128, 192)])
    (expected,) = torchvisions().rpn.anchor_generator(images, [torch.zeros(1, CHANNELS, *hw) for hw in sizes])
    got = torch.cat(network().rpn_head.prior_generator.grid_priors(sizes, device="cpu"))
    assert (got - expected).abs().max() <= 0.5  # theirs are rounded


@torch.inference_mode()
def test_the_norms_of_torchvisions_second_version_are_folded_and_heads_with_further_convolutions_left(tmp_path):
    theirs = torchvisions(version=2)
    ours, how = start(saved(theirs, tmp_path))
    assert_same_features(ours, theirs)
    assert_same_masks(ours, theirs)
    fresh = network().state_dict()
    left = [name for name in fresh if name.startswith(("rpn_head.", "roi_head.bbox_head."))]
    assert len(left) == 14
    assert all(torch.equal(ours.state_dict()[name], fresh[name]) for name in left)
    assert "rpn_head: 0 of 6; 6 left, as the file's has more convolutions below" in how.parts()


def test_classes_that_the_file_does_not_name_are_taken_only_if_as_many(tmp_path):
    for number, loaded in ((2, 8), (5, 4)):
        theirs = torchvisions(num_classes=number + 1)
        ours, how = start(saved(theirs, tmp_path))
        line = next(line for line in how.parts() if line.startswith("roi_head.bbox_head"))
        assert line.startswith(f"roi_head.bbox_head: {loaded} of 8; ")
        weight = ours.roi_head.bbox_head.fc_cls.weight
        if number == 2:
            torch.testing.assert_close(weight, theirs.roi_heads.box_predictor.cls_score.weight[[1, 2, 0]])
        else:
            assert torch.equal(weight, network().roi_head.bbox_head.fc_cls.weight)
            assert "for other classes of shape (6, 32), here (3, 32)" in line


MASK_RCNN = Path(mmdet.__file__).parent / ".mim" / "configs" / "mask_rcnn" / "mask-rcnn_r50_fpn_1x_coco.py"


def mmdets_mask_rcnn():
    """The model of mmdet's own config file, narrow, with 80 classes."""
    settings = Config.fromfile(MASK_RCNN).model.to_dict()
    classes = [settings["roi_head"][head] for head in ("bbox_head", "mask_head")]
    narrow = narrowed(settings)
    for head, wide in zip(("bbox_head", "mask_head"), classes, strict=True):
        narrow["roi_head"][head]["num_classes"] = wide["num_classes"]
    narrow["roi_head"]["bbox_head"]["fc_out_channels"] = FC_CHANNELS
    narrow["roi_head"]["mask_head"]["num_convs"] = MASK_CONVS
    narrow["neck"] |= {"out_channels": CHANNELS, "in_channels": [64, 128, 256, 512]}
    narrow["backbone"] |= {"init_cfg": None, "depth": 18}
    del narrow["type"], narrow["data_preprocessor"]
    return randomised(MaskRCNN(**ConfigDict(narrow)))


COCO_80 = tuple(name for name in COCO[1:] if name != "N/A")


def saved_by_mmengine(model, path, **meta):
    """As a training leaves it, with the history of its losses."""
    hub = {"log_scalars": {"train/loss": HistoryBuffer([1.0], [1])}, "runtime_info": {"loss": np.float64(2.0)}}
    save_checkpoint({"meta": meta, "state_dict": model.state_dict(), "message_hub": hub}, str(path))
    return path


@pytest.fixture(scope="module")
def mask_rcnn():
    return mmdets_mask_rcnn()


@pytest.fixture
def mask_rcnn_file(mask_rcnn, tmp_path):
    return saved_by_mmengine(mask_rcnn, tmp_path / "mask_rcnn.pth", dataset_meta={"classes": COCO_80})


@torch.inference_mode()
@pytest.mark.parametrize("location_sensitive_header", [False, True])
def test_mmdets_mask_rcnn_computes_the_same_in_our_network(mask_rcnn, mask_rcnn_file, location_sensitive_header):
    ours, how = start(mask_rcnn_file, location_sensitive_header=location_sensitive_header)
    images, box_features, mask_features = noise(1, 3, 64, 96), noise(4, CHANNELS, 7, 7), noise(4, CHANNELS, 14, 14)
    pyramid = mask_rcnn.extract_feat(images)
    torch.testing.assert_close(ours.extract_feat(images), pyramid, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.rpn_head(pyramid), mask_rcnn.rpn_head(pyramid), rtol=1e-4, atol=1e-4)
    theirs, rows = mask_rcnn.roi_head, [COCO_80.index("dog"), COCO_80.index("person")]
    masks = theirs.mask_head(mask_features)[:, rows]
    logits, deltas = theirs.bbox_head(box_features)
    logits, deltas = logits[:, [*rows, 80]], deltas.reshape(4, 80, 4)[:, rows].flatten(1)
    if location_sensitive_header:
        tower = ours.roi_head.tower(mask_features)
        got_logits, _ = ours.roi_head.bbox_head(box_features, tower)
        torch.testing.assert_close((got_logits, ours.roi_head.mask_head(tower)), (logits, masks), rtol=1e-4, atol=1e-4)
        assert "roi_head.tower: 4 of 4" in how.parts()
    else:
        torch.testing.assert_close(ours.roi_head.bbox_head(box_features), (logits, deltas), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours.roi_head.mask_head(mask_features), masks, rtol=1e-4, atol=1e-4)
        assert [line for line in how.parts() if " 0 of" in line] == ["semantic_head: 0 of 8; 8 not in the file"]


@torch.inference_mode()
def test_every_stage_of_the_cascade_starts_from_mmdets_plain_heads(mask_rcnn, mask_rcnn_file):
    ours, _ = start(mask_rcnn_file, "lwl_htc")
    rows = [COCO_80.index("dog"), COCO_80.index("person")]
    features, masks = noise(4, CHANNELS, 7, 7), noise(4, CHANNELS, 14, 14)
    expected = mask_rcnn.roi_head.bbox_head(features)[0][:, [*rows, 80]]
    for head in ours.roi_head.bbox_head:
        torch.testing.assert_close(head(features)[0], expected, rtol=1e-4, atol=1e-4)
    expected = mask_rcnn.roi_head.mask_head(masks)[:, rows]
    for head in ours.roi_head.mask_head:
        torch.testing.assert_close(head(masks)[0], expected, rtol=1e-4, atol=1e-4)
    fresh = network("lwl_htc").roi_head.bbox_head
    for head, other in zip(ours.roi_head.bbox_head, fresh, strict=True):
        assert torch.equal(head.fc_reg.weight, other.fc_reg.weight)


def test_mmdets_htc_is_ours_tensor_by_tensor(tmp_path):
    theirs = randomised(mmdets_htc())
    ours = resnet_htc(seed=7)
    how = start_from(saved_by_mmengine(theirs, tmp_path / "htc.pth"), ours, CATEGORIES)
    expected = theirs.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in ours.state_dict().items())
    assert how.unused == []
    assert "backbone: 265 of 265" in how.parts()


OTHERS = category_set({5: "person", 7: "cat", 9: "dog"}, {2: "grass", 3: "road"})


def save_our_own(folder, end, categories, **changes):
    """weights.pth and network.json of a network with other categories in another order."""
    torch.manual_seed(1)
    sizes = {"num_things": len(categories.things), "num_classes": len(categories)}
    model = randomised(BUILDERS[end](**sizes, test_proposals=30, **NETWORKS[end] | OURS | changes))
    described = {"end": end, "categories": categories.to_json(), "network": {}, **sizes}
    save_weights(folder, model, network=described)
    return model


@torch.inference_mode()
def test_rows_of_our_own_networks_go_by_the_names_of_classes(tmp_path):
    theirs = save_our_own(tmp_path, "e_ups", OTHERS)
    ours, how = start(tmp_path / "weights.pth")
    features, images = noise(4, CHANNELS, 7, 7), noise(1, 3, 64, 96)
    logits, _ = theirs.roi_head.bbox_head(features)
    torch.testing.assert_close(ours.roi_head.bbox_head(features)[0], logits[:, [2, 0, 3]])
    pyramid = theirs.extract_feat(images)
    grass = theirs.semantic_head(pyramid)[:, 3]  # of person, cat, dog, grass, road
    torch.testing.assert_close(ours.semantic_head(pyramid)[:, 3], grass)
    assert "semantic_head: 8 of 8; 2 with 3 of 4 classes, by name" in how.parts()


def test_another_end_takes_the_parts_that_both_have(tmp_path):
    theirs = save_our_own(tmp_path, "e_ups", CATEGORIES, image_context=True, balanced_pyramid_level=2)
    ours, how = start(tmp_path / "weights.pth", "lwl_htc")
    images = noise(1, 3, 64, 96)
    torch.testing.assert_close(ours.backbone(images), theirs.backbone(images))
    for part in ("backbone: 100 of 100", "neck: 16 of 16", "rpn_head: 6 of 6"):
        assert part in how.parts()
    names = dict(theirs.state_dict())
    assert torch.equal(ours.neck.lateral_convs[3].conv.weight, names["neck.0.lateral_convs.3.lateral.conv.weight"])
    assert "neck.1.refine.g.conv.weight" in how.unused


def test_a_report_tells_every_tensor(tmp_path, mask_rcnn_file):
    _, how = start(mask_rcnn_file)
    how.write(tmp_path / "load_from.json")
    document = json.loads((tmp_path / "load_from.json").read_text())
    assert set(document["loaded"]) == set(how.tensors)
    assert document["notes"]["semantic_head.classifier.bias"] == "not in the file"
    assert how.describe("e_ups base").splitlines()[:2] == [
        f"e_ups base starts from {mask_rcnn_file} (mmdet)",
        "  backbone: 100 of 100",
    ]


def train(dataset, folder, load_from):
    train_member(
        dataset,
        build=BUILDERS["e_ups"],
        end="e_ups",
        # These would have to be fetched, and nothing of them would stay.
        network=NETWORKS["e_ups"] | OURS | {"backbone": OURS["backbone"] | {"weights": "imagenet"}},
        load_from=None if load_from is None else str(load_from),
        settings=TRAINING,
        checkpoint_interval=1,
        loader_workers=0,
        dataset_fingerprint="0" * 64,
        work_dir=folder / "unfinished",
        out_dir=folder / "base",
    )
    return torch.load(folder / "base" / "weights.pth", weights_only=True)


def test_a_member_trains_from_its_detector_and_needs_the_file_no_more(tmp_path, dataset, mask_rcnn, capsys):
    file = saved_by_mmengine(mask_rcnn, tmp_path / "detector.pth")
    trained = train(dataset, tmp_path, file)
    stem = "backbone.conv1.weight"  # frozen
    assert torch.equal(trained[stem], mask_rcnn.state_dict()[stem])
    assert f"e_ups base starts from {file} (mmdet)\n  backbone: 100 of 100\n" in capsys.readouterr().out
    assert stem in json.loads((tmp_path / "base" / "load_from.json").read_text())["loaded"]
    assert "load_from" not in read_network(tmp_path / "base").network

    file.unlink()
    described = read_network(tmp_path / "base")
    again = BUILDERS["e_ups"](num_things=2, num_classes=4, test_proposals=9, **described.network)
    load_weights(tmp_path / "base", again)
    with pytest.raises(ModelError, match=r"detector\.pth: no such file"):
        train(dataset, tmp_path, file)
    assert (tmp_path / "base" / "weights.pth").is_file()


def test_safetensors_are_read_too(tmp_path, mask_rcnn):
    save_file({name: t.contiguous() for name, t in mask_rcnn.state_dict().items()}, tmp_path / "a.safetensors")
    _, how = start(tmp_path / "a.safetensors")
    assert "backbone: 100 of 100" in how.parts()
