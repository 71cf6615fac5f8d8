"""Inception-v3, whose features are those of FID, sFID and IS."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from decm.checkpoints.strict import load_strictly, no_advice
from decm.features.extractor import KEY, check_images, read_weights

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_ORIGIN = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"
SPATIAL_CHANNELS = 7  # of 192: ADM's evaluator, so that sFID has about as many dimensions as FID


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
