"""Compare the network's tangents with finite differences at start-up; a mismatch stops the run.

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
from decm.training.callbacks.base import distillation
from decm.training.sharding import gather_anew, gathered, local

ROWS = 4
EPS = 3e-3  # half-width of the differences
LIMITS = {"32-true": 1e-2, "bf16-mixed": 0.1}  # largest relative error by precision; that of a dropped tangent is 0.8


class WrongTangentError(RuntimeError):
    """A network's tangent is not its derivative; the message names the layer."""

    exit_code = 1


@contextmanager
def at_noise(network: nn.Module, seed: int = 0) -> Iterator[None]:
    """Have noise in place of the parameters inside the `with` block, about 1 for the scales of norms, else about 0.

    Zeros (gates, last layers) would hide a wrong tangent; where a run has diverged, differences would say nothing.
    Scales about 0 would make the errors in bfloat16 five times as large.
    """
    held = {name: local(p) for name, p in network.named_parameters()}
    kept = {name: p.detach().clone() for name, p in held.items()}
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in held.items():
            width = p[0].numel() if p.ndim > 1 and len(p) else 16
            is_scale = p.ndim == 1 and name.endswith("weight")
            p.copy_(torch.randn(p.shape, generator=draw).to(p) * width**-0.5 + is_scale)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, p in held.items():
                p.copy_(kept[name])
        gather_anew(network)


@contextmanager
def exactly() -> Iterator[None]:
    """No TF32 inside the `with` block: its ten bits are too few for the differences."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def eager(network: nn.Module) -> Iterator[None]:
    """Run the blocks uncompiled inside the `with` block: differences must not depend on what is checked."""
    compiled = [part for part in regions(network).values() if part.compiled]
    for part in compiled:
        part.compiled = False
    yield
    for part in compiled:
        part.compiled = True


def error(call: Callable[..., Any], at: list[Tensor], along: list[Tensor], tangent: Tensor) -> float:
    """Relative error of a tangent against the central difference of `call` at `at` along `along`."""
    ahead, behind = (call(*(x + sign * EPS * dx for x, dx in zip(at, along, strict=True))) for sign in (1, -1))
    difference = (ahead.float() - behind.float()) / (2 * EPS)
    return float((tangent.float() - difference).norm() / difference.norm().clamp(min=1e-12))


def errors(network: nn.Module, context: Callable[[], Any], whole: nn.Module | None) -> dict[str, float]:
    """Relative errors of the tangents of each block and, without `whole`, of the network; see `check_tangents`."""
    draw = torch.Generator().manual_seed(1)
    device = next(network.parameters()).device
    x, dx = (torch.randn(ROWS, *network.shape, generator=draw).to(device) for _ in range(2))  # type: ignore[misc]
    t, dt, ds = (torch.rand(ROWS, generator=draw).to(device) * 0.4 + 0.1 for _ in range(3))
    s, y = t + 0.3, torch.zeros(ROWS, dtype=torch.int64, device=device)
    calls: dict[str, tuple[tuple[Any, ...], Any]] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda _, inputs, outputs: calls.__setitem__(name, (inputs, outputs))

    hooks = [part.register_forward_hook(note(name)) for name, part in regions(network).items()]
    try:
        with context():
            _, dF = network(x, t, s, y, tangents=(dx, dt, ds))
    finally:
        for hook in hooks:
            hook.remove()
    found = {}
    with torch.no_grad(), eager(network):
        for name, ((h, c, rope, (dh, dc)), (_, tangent)) in calls.items():
            part = network.get_submodule(name)
            if whole is not None:
                part = gathered(whole.get_submodule(name), part)
            # without the residual, which would hide what its branches do
            branches = lambda h, c, part=part, rope=rope: part(h, c, rope) - h  # noqa: E731
            at, along = [h.float(), c.float()], [dh.float(), dc.float()]
            found[name] = error(branches, at, along, tangent.float() - dh.float())
            if whole is not None:
                part.to("meta")
        if whole is None:
            found["the whole network"] = error(lambda x, t, s: network(x, t, s, y), [x, t, s], [dx, dt, ds], dF)
    return found


def check_tangents(
    network: nn.Module, context: Callable[[], Any], limit: float, whole: nn.Module | None = None
) -> None:
    """Raise WrongTangentError unless dF, and each block's tangent, is the derivative, with noise for parameters.

    `context` is the precision in which the network trains. Differences are taken outside of it, in float32; where a
    sharded network casts its parameters they are those of `whole`, its skeleton, into which a block at a time is
    gathered, and the network as such is not compared.
    """
    with at_noise(network), exactly():
        found = errors(network, context, whole)
    bad = {name: value for name, value in found.items() if not value < limit}
    if bad:
        first, kind = next(iter(bad)), type(network).__name__.removeprefix("FSDP")
        raise WrongTangentError(
            f"The tangent of {first} of {kind} is not its derivative: relative error "
            f"{bad[first]:.2g} against central differences, at most {limit:g} expected"
            + (f"; {len(bad) - 1} more parts are wrong" if len(bad) > 1 else "")
            + ". Training would follow wrong targets. Try trainer.compile=false, or jvp=finite_difference in float32 "
            "(trainer.precision=32-true), which needs no tangents; self_check=false trains all the same."
        )


class SelfCheck(Callback):
    """Runs `check_tangents` on the student before the first step, in the precision of the run."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module = distillation(pl_module)
        if not supports_tangents(module.student):
            return
        whole = module.skeletons.pop("student", None)
        half = whole is not None or trainer.precision != "32-true"
        limit = LIMITS["bf16-mixed" if half else "32-true"]
        check_tangents(module.student, trainer.precision_plugin.forward_context, limit, whole)
