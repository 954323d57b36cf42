"""That every network learns everywhere, from any picture."""

import pytest
import torch

from tests.models.conftest import E_UPS_EXTRAS, batch_of, build, gradients_of, losses_of

NETWORKS = {
    "e_ups": ("e_ups", {}),
    "e_ups whole": ("e_ups", E_UPS_EXTRAS),
    "lwl_htc": ("lwl_htc", {}),
    "lwl_htc shared": ("lwl_htc", {"deformable_semantic_head": "shared", "uncertainty": "task"}),
    "lwl_htc per level": ("lwl_htc", {"deformable_semantic_head": "per_level", "location_sensitive_header": True}),
    "hrnet_aspp": ("hrnet_aspp", {}),
}


@pytest.fixture(scope="module", params=NETWORKS.values(), ids=NETWORKS)
def network(request):
    end, changes = request.param
    return build(end, **changes)


@pytest.mark.parametrize("positions", [(0, 1, 2), (1, 1), (2, 2)], ids=["all", "no thing", "no truth"])
def test_losses_are_finite_and_every_weight_that_can_learn_gets_a_gradient(network, dataset, positions):
    logged = losses_of(network, batch_of(network, dataset, positions, flip=True, photometric=0.1))
    assert all(torch.isfinite(value).all() for value in logged.values())
    assert any("semantic" in name for name in logged)
    gradients = gradients_of(network)
    assert gradients.keys() == {name for name, p in network.named_parameters() if p.requires_grad}
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())


def test_bfloat16_losses_are_close_to_float32(network, dataset):
    batch = batch_of(network, dataset, (0, 1))
    exact = losses_of(network, batch)["loss"].item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = losses_of(network, batch)["loss"].item()
    assert rounded == pytest.approx(exact, rel=0.05)
