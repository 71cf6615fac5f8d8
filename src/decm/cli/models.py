"""A trained model from a run folder or a checkpoint, with the configuration that it carries."""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig
from torch import nn

from decm.cli.build import build_network, segment_names
from decm.cli.config import from_plain
from decm.flow.flow_map import FlowMap
from decm.pretrained.checkpoints import find_checkpoint, read_checkpoint, run_folder_of, weights_of
from decm.pretrained.networks import load_strictly


@dataclass(frozen=True)
class Model:
    """The averaged student, its configuration, and where it came from."""

    flow_map: FlowMap
    cfg: DictConfig
    checkpoint: Path
    step: int

    @property
    def run_folder(self) -> Path:
        """The folder of the run that wrote the checkpoint, or the file's own folder."""
        return run_folder_of(self.checkpoint)

    @property
    def trained_on(self) -> list[str]:
        """The names of the segments it was trained on."""
        return segment_names(self.cfg)

    @property
    def network(self) -> nn.Module:
        """The averaged student itself."""
        assert isinstance(self.flow_map.net, nn.Module)
        return self.flow_map.net


def load_model(path: str, device: str) -> Model:
    """The EMA weights of a checkpoint as a flow map on `device`. Raises ValueError if that is not a model of decm."""
    checkpoint = read_checkpoint(path)
    cfg = from_plain(checkpoint["decm_config"])
    network = build_network(cfg.network, 0)
    load_strictly(network, weights_of(checkpoint), f"Checkpoint {path}")
    network.to(device).eval().requires_grad_(False)
    return Model(FlowMap(network), cfg, find_checkpoint(path), int(checkpoint["global_step"]))
