"""What a step costs, in forward-equivalents: rows that went through a network, times the forwards that each takes."""

import torch
from torch import Tensor

from decm.flow.derivative import Network, supports_tangents

FORWARD_BACKWARD = 3  # forward-equivalents of a row without a derivative


def cost_with_derivative(engine: str, net: Network) -> int:
    """Forward-equivalents of a row with a derivative, backward (2) included; counted in benchmarks/step.py.

    A dual pass is 2 forwards for a network that takes tangents, 3 through torch.func.jvp.
    """
    dual_pass = 2 if supports_tangents(net) else 3
    costs = {
        "dual": dual_pass + 2,
        "split": FORWARD_BACKWARD + dual_pass,
        "finite_difference": FORWARD_BACKWARD + 2,
    }
    return costs[engine]


class CountedRows:
    """A network F(x, t, s, y) that counts the rows that go through it."""

    def __init__(self, net: Network) -> None:
        self.net, self.rows = net, 0

    def __call__(self, x: Tensor, t: Tensor, s: Tensor, y: Tensor) -> Tensor:
        self.rows += len(x)
        return self.net(x, t, s, y)


def counted(net: Network) -> CountedRows:
    """The network with its rows counted; one that is counted already, as after a rollback, is not wrapped again."""
    return net if isinstance(net, CountedRows) else CountedRows(net)


class WithoutGradient(CountedRows):
    """The student or its average as discrete laws look at it: without gradient.

    Autocast must not keep its weights that were cast without a gradient: the student's own call would take them.
    """

    def __call__(self, x: Tensor, t: Tensor, s: Tensor, y: Tensor) -> Tensor:
        kind = x.device.type
        casts, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        with torch.no_grad(), torch.autocast(kind, dtype, enabled=casts, cache_enabled=False):
            return super().__call__(x, t, s, y)
