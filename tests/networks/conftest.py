"""Golden vectors of the public reference implementations (numbers alone), by name."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from torch import Tensor

from decm.networks.dit import LightningDiT

DATA = Path(__file__).parents[1] / "data"


@dataclass
class Golden:
    """`state`: the weights by their released names; `vectors`: inputs and outputs; `config`: the reference's."""

    config: dict[str, Any]
    state: dict[str, Tensor]
    vectors: dict[str, Tensor]

    def network(self, **overrides: Any) -> LightningDiT:
        """Our network of the same sizes, freshly initialized."""
        sizes = ("input_size", "patch_size", "in_channels", "hidden_size", "depth", "num_heads", "mlp_ratio")
        settings = {name: self.config[name] for name in (*sizes, "num_classes")}
        two_times = self.config.get("auxiliary_time_cond", False)
        return LightningDiT(**{**settings, "qk_norm": self.config["use_qknorm"], "two_times": two_times, **overrides})


def read_golden(name: str) -> Golden:
    with safe_open(DATA / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        config = json.loads(file.metadata()["config"])
    state = {key.removeprefix("state."): tensor for key, tensor in tensors.items() if key.startswith("state.")}
    return Golden(config, state, {key: tensor for key, tensor in tensors.items() if not key.startswith("state.")})


@pytest.fixture
def released() -> Golden:
    return read_golden("lightningdit_released")


@pytest.fixture
def qknorm() -> Golden:
    return read_golden("lightningdit_qknorm")


@pytest.fixture
def two_time() -> Golden:
    return read_golden("lightningdit_two_time")


@pytest.fixture(params=["released", "qknorm", "two_time"])
def golden(request: pytest.FixtureRequest) -> Golden:
    return read_golden(f"lightningdit_{request.param}")


@pytest.fixture
def ldm() -> Golden:
    return read_golden("ldm_vae")
