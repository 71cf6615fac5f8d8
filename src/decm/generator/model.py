"""The public API: a trained generator from a folder, a checkpoint or the hub, to images."""

import operator
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from decm.checkpoints.strict import load_strictly
from decm.data.manifest import manifest_of
from decm.evaluation.devices import pick_device
from decm.evaluation.generate import balanced_labels, check_labels, generate, in_batches
from decm.flow.flow_map import FlowMap
from decm.flow.solvers import check_steps, choose_sampler
from decm.generator.decode import PROJECTION, AutoencoderSettings, Decoder, build_decoder
from decm.generator.files import Stored, read_stored, write_folder
from decm.generator.metadata import check_shape
from decm.generator.networks import build_network

Labels = Sequence[int | str] | int | str


def is_latent(data: dict[str, Any]) -> bool:
    """Whether the states of these data are an autoencoder's latents."""
    return data["extra"].get("kind") == "latents"


def as_int(name: str, value: Any, least: int | None = None) -> int:
    """The whole number of an argument called `name`. Raises ValueError for anything else, and below `least`."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or (least is not None and number < least):
        raise ValueError(f"{name}={value!r}; expected a whole number{'' if least is None else f', {least} or more'}.")
    return number


class Generator:
    """A trained generator: `generator(labels=[207, 360], steps=1, seed=0)` -> uint8 images [N, H, W, 3].

    A label is a whole number, from 0 on, or the name of a class, exactly as `generator.manifest.class_names` has it.
    Guidance is distilled into it. Sample i of a call is that of (seed, i), whatever the batch size and the device's
    number of samples: bitwise at equal batch size, to 1e-5 of the states otherwise.
    """

    def __init__(self, stored: Stored, device: str | torch.device = "auto", batch_size: int = 64) -> None:
        batch_size = as_int("batch_size", batch_size, 1)
        self.config, self.folder = stored.config, stored.folder
        self.manifest = manifest_of(stored.config["data"])
        self.device, self.batch_size = pick_device(str(device)), batch_size
        source = f"The model of {stored.source or stored.folder}"
        self.network: nn.Module = build_network(stored.config["network"], source)
        check_shape(self.manifest, self.network, source)
        load_strictly(self.network, stored.weights, source)
        self.network.to(self.device).eval().requires_grad_(False)
        self.flow_map = FlowMap(self.network)
        self._decoder: Decoder | None = None

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        device: str | torch.device = "auto",
        batch_size: int = 64,
        autoencoder: str | Path | None = None,
        revision: str | None = None,
    ) -> Self:
        """The generator of a run folder, a checkpoint, a consolidated file, an exported folder or `<org>/<name>`.

        `autoencoder` is the file of the weights that decode latents, where it is not where the model says; `revision`
        is one of the hub. Raises ValueError for what is no model of decm, and for what would call foreign code.
        """
        stored = read_stored(path, revision)
        if autoencoder is not None:
            settings = stored.config["autoencoder"]
            if not is_latent(stored.config["data"]) or not settings or settings["kind"] == PROJECTION:
                raise ValueError(f"autoencoder={str(autoencoder)!r} has no effect: this model names no autoencoder.")
            stored.config["autoencoder"] = {**settings, "path": str(Path(autoencoder).absolute())}
        return cls(stored, device, batch_size)

    def save_pretrained(self, folder: str | Path, overwrite: bool = False) -> None:
        """Write model.safetensors, config.json and README.md, which `from_pretrained` reads back bitwise.

        Raises ValueError if the folder holds a model already, unless `overwrite`.
        """
        weights = {key: value.cpu() for key, value in self.network.state_dict().items()}
        write_folder(Stored(weights, self.config, self.folder), Path(folder), overwrite)

    def sampler(self, steps: int) -> str:
        """The sampler that `steps` steps are taken with: what is stored for them, else the rule of flow/solvers.py."""
        steps = as_int("steps", steps)
        overrides = {int(nfe): name for nfe, name in self.config["samplers"].items()}
        return choose_sampler(steps, self.config["trained_on"], overrides)

    def __call__(
        self,
        labels: Labels | None = None,
        steps: int = 1,
        seed: int = 0,
        *,
        num: int | None = None,
        sampler: str | None = None,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """Images, uint8 [N, H, W, 3]: of the labels [N], or `num` of balanced ones; gray ones are repeated.

        Raises ValueError for labels and names that are no classes, steps outside 1 to 1000 or that the sampler cannot
        take, for numbers that are not whole, for states that are no images, and for latents without an autoencoder,
        naming its file.
        """
        decode = self.decoder()  # before the work is done
        states = self.states(labels, steps, seed, num=num, sampler=sampler, batch_size=batch_size)
        pictures = torch.cat([decode(part).cpu() for part in states.split(self._size(batch_size))])
        return pictures.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()

    def states(
        self,
        labels: Labels | None = None,
        steps: int = 1,
        seed: int = 0,
        *,
        num: int | None = None,
        sampler: str | None = None,
        batch_size: int | None = None,
    ) -> Tensor:
        """The samples as the network makes them, normalized: float32 [N, C, H, W] on the CPU."""
        wanted, name = self._labels(labels, num), sampler or self.sampler(steps)
        steps, seed, size = as_int("steps", steps), as_int("seed", seed), self._size(batch_size)
        check_steps(steps, name, "steps")
        shape, flow_map = self.manifest.shape, self.flow_map
        parts = [
            generate(
                flow_map,
                shape,
                labels=wanted[index],
                nfe=steps,
                sampler=name,
                seed=seed,
                index=index,
                device=self.device,
            )
            for index in in_batches(len(wanted), size)
        ]
        return torch.cat(parts)

    def latents(self, labels: Labels | None = None, steps: int = 1, seed: int = 0, **options: Any) -> Tensor:
        """The samples in the data's own units, x * std + mean: an autoencoder's latents, points, or raw pixels."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.manifest.mean, self.manifest.std))
        return self.states(labels, steps, seed, **options) * std + mean

    def decoder(self) -> Decoder:
        """The way from states to uint8 images; read once. Raises ValueError where there is none."""
        if self._decoder is None:
            settings = {"kind": None, "path": None, "args": None, "chunk": 16, **(self.config["autoencoder"] or {})}
            if not is_latent(self.config["data"]):  # a protocol names an autoencoder for any data
                settings |= {"kind": None, "path": None}
            elif settings["kind"] != PROJECTION:
                settings["path"] = self._autoencoder_file(settings)
            device = self.device if self.device.startswith("cuda") else "cpu"  # it has operations that MPS lacks
            self._decoder = build_decoder(self.manifest, cast(AutoencoderSettings, settings), "autoencoder", device)
        return self._decoder

    def _autoencoder_file(self, settings: dict[str, Any]) -> str:
        file = self.folder / settings["path"] if settings["path"] is not None else None
        if file is None or not file.is_file():
            found = f"{file} is missing" if file else "no file is named"
            raise ValueError(
                f"This model makes latents, and pictures need the weights of the autoencoder that made them "
                f"(kind {settings['kind']}): {found}. Set autoencoder=<the file>, of Generator.from_pretrained or of "
                "`decm sample`; or take latents(...)."
            )
        return str(file)

    def _size(self, batch_size: int | None) -> int:
        return self.batch_size if batch_size is None else as_int("batch_size", batch_size, 1)

    def _labels(self, labels: Labels | None, num: int | None) -> Tensor:
        classes = self.manifest.num_classes
        if labels is None:
            if num is None:
                raise ValueError("Found no labels and num=None; pass labels=[...], or num=<how many samples>.")
            return balanced_labels(as_int("num", num, 1), classes)
        if num is not None:
            raise ValueError("Found labels and num; pass one of the two.")
        # A text is iterable, and an array's number too.
        several = isinstance(labels, Iterable) and not isinstance(labels, str) and getattr(labels, "ndim", 1) > 0
        given: list[Any] = list(labels) if several else [labels]  # type: ignore[arg-type]
        return check_labels(given, classes, self.manifest.class_names)
