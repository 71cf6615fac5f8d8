"""At start-up, the tangents that the network carries against differences: a mismatch stops the run.

Several faults of PyTorch drop tangents in silence (pytorch#192985, #187284, #192629); training goes on with wrong
targets, and the loss shows nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from decm.flow.derivative import supports_tangents
from decm.networks.regions import regions
from decm.training.sharding import gather_anew, local

ROWS = 4
LIMITS = {  # (half-width of the difference, largest relative error) by what is in half precision
    "nothing": (3e-3, 1e-2), "tangents": (3e-3, 0.1), "parameters": (5e-2, 0.15),
}  # fmt: skip


class WrongTangentError(RuntimeError):
    """A network's tangent is not its derivative; the message names the layer."""

    exit_code = 1


@contextmanager
def perturbed(network: nn.Module, seed: int = 0) -> Iterator[None]:
    """Parameters with noise within, since zeros (gates, last layers) would hide a wrong tangent; then as they were."""
    held = [local(p) for p in network.parameters()]
    kept = [p.detach().clone() for p in held]
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in held:
            width = p[0].numel() if p.ndim > 1 and len(p) else 16
            p.add_(torch.randn(p.shape, generator=draw).to(p) * width**-0.5)
    try:
        yield
    finally:
        with torch.no_grad():
            for p, before in zip(held, kept, strict=True):
                p.copy_(before)
        gather_anew(network)


@contextmanager
def eager(network: nn.Module) -> Iterator[None]:
    """Blocks run as they are written within: differences must not depend on what is checked."""
    compiled = [part for part in regions(network).values() if part.compiled]
    for part in compiled:
        part.compiled = False
    yield
    for part in compiled:
        part.compiled = True


def error(call: Callable[..., Any], at: list[Tensor], along: list[Tensor], tangent: Tensor, eps: float) -> float:
    """Relative error of a tangent against the central difference of `call` at `at` along `along`."""
    ahead, behind = (call(*(x + sign * eps * dx for x, dx in zip(at, along, strict=True))) for sign in (1, -1))
    difference = (ahead.float() - behind.float()) / (2 * eps)
    return float((tangent.float() - difference).norm() / difference.norm().clamp(min=1e-12))


def check_tangents(network: nn.Module, context: Callable[[], Any], limits: tuple[float, float]) -> None:
    """Raise WrongTangentError unless dF, and each block's tangent, is the derivative, under noise on the parameters.

    `context` is the precision in which the network trains. Differences are taken outside of it.
    """
    eps, limit = limits
    draw = torch.Generator().manual_seed(1)
    device = next(network.parameters()).device
    x, dx = (torch.randn(ROWS, *network.shape, generator=draw).to(device) for _ in range(2))  # type: ignore[misc]
    t, dt, ds = (torch.rand(ROWS, generator=draw).to(device) * 0.4 + 0.1 for _ in range(3))
    s, y = t + 0.3, torch.zeros(ROWS, dtype=torch.int64, device=device)
    calls: dict[str, tuple[tuple[Any, ...], Any]] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda _, inputs, outputs: calls.__setitem__(name, (inputs, outputs))

    with perturbed(network):
        hooks = [part.register_forward_hook(note(name)) for name, part in regions(network).items()]
        try:
            with context():
                _, dF = network(x, t, s, y, tangents=(dx, dt, ds))
        finally:
            for hook in hooks:
                hook.remove()
        with torch.no_grad(), eager(network):
            wrong = {}
            for name, ((h, c, rope, (dh, dc)), (_, tangent)) in calls.items():
                part = network.get_submodule(name)
                # without the residual, which would hide what its branches do
                branches = lambda h, c, part=part, rope=rope: part(h, c, rope).float() - h.float()  # noqa: E731
                wrong[name] = error(branches, [h, c], [dh, dc], tangent.float() - dh.float(), eps)
            wrong["the whole network"] = error(lambda x, t, s: network(x, t, s, y), [x, t, s], [dx, dt, ds], dF, eps)
    bad = {name: found for name, found in wrong.items() if not found < limit}
    if bad:
        first = next(iter(bad))
        raise WrongTangentError(
            f"The tangent of {first} of {type(network).__name__} is not its derivative: relative error "
            f"{bad[first]:.2g} against central differences, at most {limit:g} expected"
            + (f"; {len(bad) - 1} more parts are wrong" if len(bad) > 1 else "")
            + ". Training would follow wrong targets. Try trainer.compile=false, or jvp=finite_difference, which needs "
            "no tangents; self_check=false trains all the same."
        )


class SelfCheck(Callback):
    """Runs `check_tangents` on the student before the first step, in the precision of the run."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        network: nn.Module = pl_module.student  # type: ignore[assignment]
        if not supports_tangents(network):
            return
        half = "nothing" if trainer.precision == "32-true" else "tangents"
        half = "parameters" if pl_module.sharding.dtype else half
        check_tangents(network, trainer.precision_plugin.forward_context, LIMITS[half])
