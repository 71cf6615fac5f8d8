"""Images a second of the sampler that `decm sample` chooses, and samples a second of the data path."""

import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch

from data import batches, make, rate
from decm.flow.flow_map import FlowMap
from decm.flow.solvers import choose_sampler, sample
from speed.cases import Case
from speed.timing import once
from speed.work import Work

STEPS = (1, 2, 4, 50)
TRAINED_ON = ("instantaneous", "consistency", "noise_to_noisy")
SET = 1024  # samples of the synthetic set that the data path is read from


@torch.no_grad()
def images_a_second(case: Case, device: str) -> dict[int, float]:
    """By number of network steps; latents, without the autoencoder."""
    work = Work(case, device)
    z, y, flow_map, rates = work.x[0].to(work.device), work.y[0].to(work.device), FlowMap(work.module.student), {}

    def draw(nfe: int) -> None:
        with work.autocast():
            sample(flow_map, z, y, nfe, choose_sampler(nfe, TRAINED_ON), lambda k: z)

    draw(1)  # compiles
    for nfe in STEPS:
        rates[nfe] = case.batch / once(lambda nfe=nfe: draw(nfe), device)  # type: ignore[misc]
    return rates


@torch.no_grad()
def decoded_a_second(case: Case, device: str, latents: dict[int, float]) -> dict[int, float]:
    """Pictures a second by number of network steps, with VA-VAE's decoder (at random weights) after the sampler.

    `latents`: latents a second without it. Empty where diffusers is not installed.
    """
    if find_spec("diffusers") is None:
        return {}
    from decm.networks.autoencoder import KINDS, Autoencoder

    decoder, z = Autoencoder(**KINDS["f16d32"]).to(device), torch.randn(case.batch, 32, 16, 16, device=device)
    decoder.decode(z)  # chooses algorithms
    each = once(lambda: decoder.decode(z), device) / case.batch
    return {nfe: 1 / (1 / rate + each) for nfe, rate in latents.items()}


def data_path() -> dict[str, float]:
    """Samples a second that one process reads from 64-sample records, warm."""
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder) / "set", SET, 64, flip=True)
        return {f"batch {batch}": rate(batches(Path(folder) / "set", batch, SET, flip=True), 3) for batch in (64, 256)}
