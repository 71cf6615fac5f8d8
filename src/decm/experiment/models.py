"""A trained model from a run folder or a checkpoint, with the configuration that it carries."""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig
from torch import nn

from decm.data.manifest import Manifest
from decm.flow.flow_map import FlowMap
from decm.generator.checkpoints import BUILT, find_checkpoint, run_folder_of
from decm.generator.files import read_run
from decm.generator.model import Generator
from decm.settings.composition import from_plain


@dataclass(frozen=True)
class Model:
    """A generator, the configuration of its run, and where it came from."""

    generator: Generator
    cfg: DictConfig
    checkpoint: Path

    @property
    def run_folder(self) -> Path:
        """The folder of the run that wrote the checkpoint, or the file's own folder."""
        return run_folder_of(self.checkpoint)

    @property
    def step(self) -> int:
        """The optimizer step that the checkpoint was written at."""
        return int(self.generator.config["step"])

    @property
    def trained_on(self) -> list[str]:
        """The names of the segments it was trained on."""
        return list(self.generator.config["trained_on"])

    @property
    def manifest(self) -> Manifest:
        """What the checkpoint says of the data it was trained on."""
        return self.generator.manifest

    @property
    def flow_map(self) -> FlowMap:
        """The averaged student as a flow map."""
        return self.generator.flow_map

    @property
    def network(self) -> nn.Module:
        """The averaged student itself."""
        return self.generator.network


def load_model(path: str, device: str) -> Model:
    """The averaged student of a checkpoint on `device`. Raises ValueError if that is not a model of decm."""
    stored = read_run(Path(path), BUILT)
    return Model(Generator(stored, device), from_plain(stored.run), find_checkpoint(path))
