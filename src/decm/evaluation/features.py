"""Feature extractors: networks that turn uint8 images into the vectors whose distributions are compared.

Every one reads a local weights file and downloads nothing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, Self

import torch
from torch import Tensor, nn

from decm.checkpoints.strict import load_strictly, no_advice
from decm.evaluation.classifier import FEATURES as CLASSIFIER_FEATURES
from decm.evaluation.classifier import DigitClassifier, heldout_note

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_ORIGIN = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"
DINOV2_FILE = "dinov2_{arch}_pretrain.pth"
DINOV2_ORIGIN = "https://dl.fbaipublicfiles.com/dinov2/dinov2_{arch}/" + DINOV2_FILE
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SPATIAL_CHANNELS = 7  # of 192: ADM's evaluator, so that sFID has about as many dimensions as FID
KEY = "evaluation.protocol.weights"


class Extractor(Protocol):
    """Named features of uint8 images; `dims` has the width of each."""

    name: str
    metric: str  # what the Frechet distance of the features `pool` is called
    resize: str  # how images come to the network's size
    note: str  # what every table must say
    meaningless: bool  # whether the numbers say nothing about quality
    labels_are_classes: bool  # whether `logits` are over the data set's own classes
    dims: Mapping[str, int]

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """uint8 [N, 1 or 3, H, W] -> `pool` [N, D] and whatever else `dims` names, float32."""
        ...

    def to(self, device: torch.device | str) -> Self: ...

    def __hash__(self) -> int: ...


def check_images(images: Tensor) -> Tensor:
    """uint8 [N, 3, H, W]; gray images are repeated. Raises ValueError for another type or shape."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"Images of {images.dtype} {tuple(images.shape)}; expected uint8 [N, 1 or 3, H, W].")
    return images.expand(-1, 3, -1, -1)


def read_weights(path: str | Path | None, file: str, origin: str, key: str) -> dict[str, Tensor]:
    """The tensors of a weights file (.safetensors, or torch's format without pickled code), by name.

    Raises ValueError that names the file, its origin and the configuration key where there is none.
    """
    if path is None or not Path(path).is_file():
        found = "no path is set" if path is None else f"{str(path)!r} does not exist"
        raise ValueError(
            f"These features need the weights {file}, and {found}. Fetch {origin} on a machine with a network, and set "
            f"{key} to the file; decm downloads nothing. features=random_small runs without it, for trials alone."
        )
    if Path(path).suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the unpickler says, the file is not a plain state dict
        raise ValueError(
            f"{path} is not a file of weights, or it is damaged ({type(error).__name__}). Fetch {origin}."
        ) from error


def inception_network() -> nn.Module:
    """torch-fidelity's Inception (2015-12-05, TensorFlow-compatible), at no particular weights.

    Its constructor always loads a file, and that with pickled code allowed: it is given an empty one from memory.
    """
    import io

    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Inception(FeatureExtractorInceptionV3):
        def load_state_dict(self, state_dict: Mapping[str, Tensor], *_: object) -> None:
            assert not state_dict

    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    return Inception("inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=empty)


class InceptionFeatures(nn.Module):
    """Inception-v3 as FID means it: `pool` [N, 2048], ADM's `spatial` [N, 2023], and `logits` [N, 1008] without bias.

    `spatial` is TensorFlow's `mixed_6/conv:0` (after the ReLU) = Mixed_6d.branch1x1, its first 7 channels, flattened
    as (H, W, C) = 17 x 17 x 7, so that ADM's mu_s and sigma_s fit. With `weights=None` and `random_seed`, random.
    """

    name, metric, note = "inception", "fid", ""
    resize = "bilinear to 299 as TensorFlow 1, without antialiasing"
    meaningless, labels_are_classes = False, False
    dims: Mapping[str, int] = {"pool": 2048, "spatial": 17 * 17 * SPATIAL_CHANNELS, "logits": 1008}

    def __init__(self, weights: str | Path | None = None, key: str = KEY) -> None:
        super().__init__()
        tensors = self.read(weights, key)
        self.network = inception_network()
        self.network.Mixed_6d.branch1x1.register_forward_hook(self._keep)  # type: ignore[union-attr]
        self._spatial = torch.empty(0)
        self.fill(tensors, str(weights))

    def read(self, weights: str | Path | None, key: str) -> dict[str, Tensor]:
        """The weights, before the network is built, so that a missing file is reported at once."""
        return read_weights(weights, INCEPTION_FILE, INCEPTION_ORIGIN, key)

    def fill(self, tensors: dict[str, Tensor], source: str) -> None:
        """Give the network its weights."""
        load_strictly(
            self.network, tensors, source, optional=lambda key: key.endswith("num_batches_tracked"), advice=no_advice
        )

    def _keep(self, module: nn.Module, args: object, out: Tensor) -> None:
        self._spatial = out[:, :SPATIAL_CHANNELS]  # [N, 7, 17, 17]

    @torch.no_grad()
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        pool, logits = self.network(check_images(images).to(next(self.network.parameters()).device))
        return {"pool": pool, "spatial": self._spatial.permute(0, 2, 3, 1).flatten(1), "logits": logits}


class Dinov2Features(nn.Module):
    """DINOv2's class token after the last norm, `pool`: the features of FDD (arXiv:2306.04675), ViT-L/14 there.

    Takes the official state dict (`dinov2_vitl14_pretrain.pth`). As in EDM2's evaluation, images go to 224 x 224 by
    antialiased bicubic interpolation; the 37 x 37 position embedding goes to 16 x 16 as DINOv2's own code does it.
    """

    name, metric, note = "dinov2", "fdd", ""
    resize = "bicubic to 224, antialiased (torch)"
    meaningless, labels_are_classes = False, False
    sizes: Mapping[str, tuple[str, int]] = {
        "vits14": ("small", 384),
        "vitb14": ("base", 768),
        "vitl14": ("large", 1024),
    }

    def __init__(self, weights: str | Path | None = None, key: str = KEY, arch: str = "vitl14") -> None:
        super().__init__()
        tensors = read_weights(weights, DINOV2_FILE.format(arch=arch), DINOV2_ORIGIN.format(arch=arch), key)
        import timm

        size, width = self.sizes[arch]
        self.dims = {"pool": width}
        self.network = timm.create_model(f"vit_{size}_patch14_dinov2", img_size=224, num_classes=0, pretrained=False)
        tensors = {name: value for name, value in tensors.items() if name != "mask_token"}  # used in its training alone
        if "pos_embed" in tensors:
            tensors["pos_embed"] = self.resized(tensors["pos_embed"], 224 // 14)
        load_strictly(self.network, tensors, str(weights), advice=no_advice)
        self.requires_grad_(False).eval()

    @staticmethod
    def resized(embedding: Tensor, side: int) -> Tensor:
        """[1, 1 + M^2, D] to [1, 1 + side^2, D]: bicubic with DINOv2's offset of 0.1, which shifts the grid."""
        M = round((embedding.shape[1] - 1) ** 0.5)
        if side == M:
            return embedding
        grid = embedding[:, 1:].float().reshape(1, M, M, -1).permute(0, 3, 1, 2)  # [1, D, M, M]
        scale = (side + 0.1) / M
        grid = nn.functional.interpolate(grid, scale_factor=(scale, scale), mode="bicubic", antialias=False)
        return torch.cat([embedding[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)

    @torch.no_grad()
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = check_images(images).to(next(self.network.parameters()).device).float()
        x = nn.functional.interpolate(x, size=(224, 224), mode="bicubic", antialias=True) / 255
        mean, std = (torch.tensor(values, device=x.device)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
        return {"pool": self.network((x - mean) / std)}  # [N, D]


class DigitFeatures(nn.Module):
    """The digit classifier's penultimate layer, `pool` [N, 64], and `logits` [N, classes]; images are [N, 1, 8, 8]."""

    name, metric, resize = "digit_classifier", "fd", "none"
    meaningless, labels_are_classes = False, True

    def __init__(self, network: DigitClassifier, note: str = "") -> None:
        super().__init__()
        self.network, self.note = network, note
        self.dims: Mapping[str, int] = {"pool": CLASSIFIER_FEATURES, "logits": network.head.out_features}

    @classmethod
    def read(cls, weights: str | Path | None, key: str = KEY) -> Self:
        """From the file that a digits run leaves in its cache."""
        origin = "the folder `cache` of a digits run"
        tensors = read_weights(weights, "digit_classifier_<hash>.safetensors", origin, key)
        network = DigitClassifier(len(tensors.get("head.bias", torch.empty(10))))
        load_strictly(network, tensors, str(weights), advice=no_advice)
        return cls(network.eval().requires_grad_(False), heldout_note(Path(str(weights))))

    @torch.no_grad()
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        if tuple(images.shape[1:]) != (1, 8, 8):
            raise ValueError(f"Images of shape {tuple(images.shape[1:])}; the digit classifier expects (1, 8, 8).")
        pool, logits = self.network(images.to(self.network.head.weight.device))
        return {"pool": pool, "logits": logits}
