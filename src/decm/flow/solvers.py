"""Samplers: free functions (flow_map, z, y, times, noise) -> x at time 1, and the rule that chooses among them.

`times` is the grid 0 = t_0 < ... < t_n = 1. `noise(k)` gives the fresh noise of the k-th renoising, [B, ...], as a
function of each sample's seed. NFE counts the network's steps.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from decm.flow.flow_map import FlowMap
from decm.flow.path import interpolate
from decm.flow.times import time_grid

Noise = Callable[[int], Tensor]
Sampler = Callable[[FlowMap, Tensor, Tensor, Sequence[float], Noise], Tensor]


def _at(time: float, x: Tensor) -> Tensor:
    return torch.full((x.shape[0],), time, dtype=x.dtype, device=x.device)


def flow_map_steps(flow_map: FlowMap, z: Tensor, y: Tensor, times: Sequence[float], noise: Noise) -> Tensor:
    """x <- f(x, t_k, t_{k+1}); with one step it is the jump f(z, 0, 1). Exact at the exact flow map."""
    x = z
    for t, s in pairwise(times):
        x = flow_map(x, _at(t, x), _at(s, x), y)
    return x


def jump(flow_map: FlowMap, z: Tensor, y: Tensor, times: Sequence[float], noise: Noise) -> Tensor:
    """f(z, 0, 1): one step to the data."""
    return flow_map(z, _at(times[0], z), _at(times[-1], z), y)


def consistency(flow_map: FlowMap, z: Tensor, y: Tensor, times: Sequence[float], noise: Noise) -> Tensor:
    """x <- f(x_t, t, 1), renoised to the next time: multistep consistency sampling (arXiv:2303.01469 Alg. 1)."""
    x = flow_map(z, _at(times[0], z), _at(1.0, z), y)
    for k, t in enumerate(times[1:-1]):
        x_t = interpolate(x, noise(k), _at(t, x))
        x = flow_map(x_t, _at(t, x), _at(1.0, x), y)
    return x


def n2n_then_consistency(flow_map: FlowMap, z: Tensor, y: Tensor, times: Sequence[float], noise: Noise) -> Tensor:
    """The noise-to-noisy jump f(z, 0, t_1), then consistency sampling from t_1 on (DE-CM Sec. 3.5)."""
    if len(times) == 2:
        return flow_map_steps(flow_map, z, y, times, noise)
    x_t = flow_map(z, _at(times[0], z), _at(times[1], z), y)
    return consistency(flow_map, x_t, y, times[1:], noise)


def euler_then_consistency(flow_map: FlowMap, z: Tensor, y: Tensor, times: Sequence[float], noise: Noise) -> Tensor:
    """Euler up to the last time but one, then one jump to the data: DE-CM's mixed sampler, as its readers describe it.

    `euler_then_consistency@0.7` integrates up to 0.7; where the paper switches is not published (here: 0.5).
    """
    x = euler(flow_map, z, y, times[:-1], noise)
    return flow_map(x, _at(times[-2], x), _at(times[-1], x), y)


def euler(flow_map: FlowMap, z: Tensor, y: Tensor, times: Sequence[float], noise: Noise) -> Tensor:
    """x <- x + (t_{k+1} - t_k) F(x, t_k, t_k): order 1."""
    x = z
    for t, s in pairwise(times):
        x = x + (s - t) * flow_map.velocity(x, _at(t, x), y)
    return x


def heun(flow_map: FlowMap, z: Tensor, y: Tensor, times: Sequence[float], noise: Noise) -> Tensor:
    """The trapezoidal rule on F(x, t, t): order 2, two network steps an interval."""
    x = z
    for t, s in pairwise(times):
        v = flow_map.velocity(x, _at(t, x), y)
        ahead = x + (s - t) * v
        x = x + (s - t) / 2 * (v + flow_map.velocity(ahead, _at(s, x), y))
    return x


SWITCH = 0.5  # of a mixed sampler
SAMPLERS: dict[str, Sampler] = {
    "jump": jump,
    "flow_map_steps": flow_map_steps,
    "consistency": consistency,
    "n2n_then_consistency": n2n_then_consistency,
    "euler_then_consistency": euler_then_consistency,
    "euler": euler,
    "heun": heun,
}


def name_and_switch(sampler: str) -> tuple[str, float]:
    """(name of the sampler, time at which it switches). Raises ValueError for an unknown one, or an impossible time."""
    name, at, given = sampler.partition("@")
    if name not in SAMPLERS or (at and name != "euler_then_consistency"):
        raise ValueError(f"sampler={sampler!r} is unknown. Choose one of {', '.join(SAMPLERS)}.")
    try:
        switch = float(given) if at else SWITCH
    except ValueError:
        switch = math.nan
    if not 0 < switch < 1:
        raise ValueError(f"sampler={sampler!r}: expected a time between 0 and 1 after the @, as {name}@{SWITCH}.")
    return name, switch


def grid(sampler: str, intervals: int) -> list[float]:
    """The times of a sampler, evenly spaced, before the jump of a mixed one up to where it switches."""
    name, switch = name_and_switch(sampler)
    if name != "euler_then_consistency" or intervals == 1:
        return time_grid(intervals)
    return [*(switch * t for t in time_grid(intervals - 1)), 1.0]


def choose_sampler(nfe: int, trained_on: Collection[str], overrides: Mapping[int, str] | None = None) -> str:
    """The sampler for `nfe` steps of a model trained on the named segments: that of `overrides`, else the default.

    The velocity alone is integrated by Euler. Otherwise one step is the jump, more are flow-map steps (two of them are
    N2N, then consistency); of the data end alone they are consistency with renoising (docs/findings.md).
    What was trained on no segment is a teacher, whose velocity is integrated whatever is overridden for the student.
    """
    if not trained_on:
        return "euler"
    if overrides and nfe in overrides:
        return overrides[nfe]
    if not set(trained_on) - {"instantaneous"}:
        return "euler"
    if nfe == 1:
        return "jump"
    return "consistency" if set(trained_on) == {"consistency"} else "flow_map_steps"


def check_steps(nfe: int, sampler: str, name: str = "nfe") -> None:
    """Raise ValueError for an unknown sampler, or for a number of steps, called `name`, that it cannot take."""
    name_and_switch(sampler)
    if not 1 <= nfe <= 1000:
        raise ValueError(f"{name}={nfe} is out of range; expected 1 to 1000 network steps.")
    if sampler == "heun" and nfe % 2:
        raise ValueError(f"{name}={nfe} with heun, which takes two network steps an interval; choose an even number.")
    if sampler == "jump" and nfe != 1:
        raise ValueError(f"{name}={nfe} with jump, which is a single step; choose {name}=1 or another sampler.")


def sample(
    flow_map: FlowMap, z: Tensor, y: Tensor, nfe: int, sampler: str, noise: Noise, times: Sequence[float] | None = None
) -> Tensor:
    """Generate with exactly `nfe` network steps. Raises ValueError for an unknown sampler or an impossible NFE."""
    check_steps(nfe, sampler)
    intervals = nfe // 2 if sampler == "heun" else nfe
    times = grid(sampler, intervals) if times is None else list(times)
    ordered = all(a < b for a, b in pairwise(times))
    if len(times) != intervals + 1 or times[0] != 0 or times[-1] != 1 or not ordered:
        raise ValueError(f"The time grid {times} does not rise from 0 to 1 in {intervals} intervals.")
    return SAMPLERS[name_and_switch(sampler)[0]](flow_map, z, y, times, noise)
