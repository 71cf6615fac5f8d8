"""The flow map f(x, t, s) = x + (s - t) F(x, t, s), where the network is the average velocity F."""

from collections.abc import Callable

from torch import Tensor

from decm.flow.derivative import ENGINES, Network, Tangents
from decm.flow.path import expand


class FlowMap:
    """A network F(x, t, s, y), read as a flow map.

    `jvp` names the engine of `with_derivative`: dual, split or finite_difference (see flow/derivative.py).
    Raises ValueError for another name.
    """

    def __init__(self, net: Network, jvp: str = "dual") -> None:
        if jvp not in ENGINES:
            raise ValueError(f"jvp={jvp!r} is not an engine. Choose one of {', '.join(ENGINES)}.")
        self.net = net
        self.engine = ENGINES[jvp]

    def __call__(self, x: Tensor, t: Tensor, s: Tensor, y: Tensor) -> Tensor:
        """f(x, t, s): the state at time s of the trajectory that passes x at time t."""
        return x + expand(s - t, x) * self.net(x, t, s, y)

    def average_velocity(self, x: Tensor, t: Tensor, s: Tensor, y: Tensor) -> Tensor:
        """F(x, t, s), the mean of v along the trajectory from t to s."""
        return self.net(x, t, s, y)

    def velocity(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """v(x, t) = F(x, t, t)."""
        return self.net(x, t, t, y)

    def with_derivative(self, x: Tensor, t: Tensor, s: Tensor, y: Tensor, tangents: Tangents) -> tuple[Tensor, Tensor]:
        """F and dF = dx . dF/dx + dt dF/dt + ds dF/ds, with tangents (dx, dt, ds) per sample; dF is detached."""
        return self.engine(self.net, x, t, s, y, tangents)


def observed(flow_map: FlowMap, see: Callable[[int], None]) -> FlowMap:
    """The flow map, to sample with; `see` gets the number of rows of each call of its network, after the call."""

    def net(x: Tensor, t: Tensor, s: Tensor, y: Tensor) -> Tensor:
        F = flow_map.net(x, t, s, y)
        see(len(x))
        return F

    return FlowMap(net)
