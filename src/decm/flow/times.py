"""When: stratified times over the global batch, increasing maps of them, and time grids for sampling."""

import math

import torch
from torch import Tensor

from decm.flow.randomness import permutation, uniform


def stratified_times(seed: int, index: Tensor, global_batch: int) -> Tensor:
    """Uniform times [B] in [0, 1), one in each stratum [k/G, (k+1)/G) of the global batch of G samples.

    `index` [B] counts samples over the whole run; samples nG ... (n+1)G - 1 are the global batch of step n, wherever
    they are computed. Stratification reduces the variance of the loss over t (arXiv:2107.00630 App. I.1).
    """
    steps = index // global_batch
    strata = torch.empty_like(index)
    for step in steps.unique().tolist():
        here = steps == step
        strata[here] = permutation(seed, "strata", step, global_batch)[index[here] % global_batch]
    times = (strata + uniform(seed, "times", index)) / global_batch
    above = (strata + 1) / global_batch
    return torch.minimum(times, above.nextafter(torch.zeros_like(above)))  # float32 rounding must not reach the next


def logit_normal_times(uniforms: Tensor, mean: float, std: float) -> Tensor:
    """sigmoid(mean + std Phi^-1(u)): an increasing map of uniform times, so that strata stay strata."""
    return torch.sigmoid(mean + std * torch.special.ndtri(uniforms.clamp(1e-6, 1 - 1e-6)))


def arctan_normal_times(uniforms: Tensor, mean: float, std: float) -> Tensor:
    """1 - (2/pi) arctan(exp(mean - std Phi^-1(u))): sCM's proposal (arXiv:2410.11081 App. G.2) with data at 1.

    Increasing in u; by symmetry of the normal distribution the sign of std does not change the law.
    """
    return 1 - (2 / math.pi) * torch.exp(mean - std * torch.special.ndtri(uniforms.clamp(1e-6, 1 - 1e-6))).arctan()


def time_grid(steps: int) -> list[float]:
    """Times 0 = t_0 < ... < t_steps = 1, evenly spaced. Raises ValueError below one step."""
    if steps < 1:
        raise ValueError(f"The number of steps is {steps}; expected 1 or more.")
    return [k / steps for k in range(steps + 1)]
