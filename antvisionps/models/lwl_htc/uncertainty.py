"""Losses balanced by learned uncertainty (Kendall, Gal and Cipolla 2018, equation 10, classification form)."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

Balance = Literal["task", "term"]

MAX_LOG_VARIANCE = 10.0
"""Clamp of every log-variance: a weight stays within exp(±10), whatever a loss does."""

TASKS = ("instance", "semantic")


class UncertaintyWeighting(nn.Module):
    """Weighs losses L_i by learned log-variances s_i: the total is the sum of exp(-s_i) L_i + s_i / 2.

    The balance "task" has one s for all instance losses (region proposals, boxes and masks of every stage) and one for
    the semantic loss; "term" has one for each loss. All start at 0, where the weights are 1. For a loss that does not
    change, s goes to log(2 L), where the weighted loss is 1/2. The total can rightly become negative.
    """

    def __init__(self, *, balance: Balance, loss_names: tuple[str, ...]) -> None:
        super().__init__()
        self.balance = balance
        names = TASKS if balance == "task" else loss_names
        self.log_variance = nn.ParameterDict({_key(name): nn.Parameter(torch.zeros(())) for name in names})

    def forward(self, losses: Mapping[str, Tensor | list[Tensor]]) -> dict[str, Tensor | list[Tensor]]:
        """The same losses, weighted, with `loss_uncertainty` (the sum of s_i / 2), and every s_i for the curves.

        Values whose name holds no "loss" are accuracies and pass as they are.
        """
        weighted: dict[str, Tensor | list[Tensor]] = {}
        for name, value in losses.items():
            if "loss" not in name:
                weighted[name] = value
                continue
            weight = torch.exp(-self._clamped(self._group(name)))
            weighted[name] = [weight * part for part in value] if isinstance(value, list) else weight * value
        values = {key: self._clamped(key) for key in self.log_variance}
        weighted["loss_uncertainty"] = torch.stack(list(values.values())).sum() / 2
        # mmdet adds up whatever has "loss" in its name.
        return weighted | {f"log_variance/{key.replace('loss_', '')}": s.detach() for key, s in values.items()}

    def _group(self, loss_name: str) -> str:
        if self.balance == "task":
            return "semantic" if "semantic" in loss_name else "instance"
        return _key(loss_name)

    def _clamped(self, key: str) -> Tensor:
        return self.log_variance[key].clamp(-MAX_LOG_VARIANCE, MAX_LOG_VARIANCE)


def _key(loss_name: str) -> str:
    """A parameter's name cannot have a dot: s0.loss_cls becomes s0_loss_cls."""
    return loss_name.replace(".", "_")
