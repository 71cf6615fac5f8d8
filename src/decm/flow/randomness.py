"""Everything random about sample i is a function of (seed, purpose, i): no generator state, nothing to save.

The counter-based generator is numpy's Philox (Salmon et al., SC 2011): its key is (seed, purpose), its counter i. So
any rank, micro-batch or resumed run that asks for sample i sees the same numbers.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def generator(seed: int, purpose: str, index: int) -> np.random.Generator:
    """The random stream of (seed, purpose) from count `index` on; each count yields four words of 64 bits."""
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=16).digest()
    key = int.from_bytes(digest, "little")
    return np.random.Generator(np.random.Philox(key=key, counter=index))


def _words(seed: int, purpose: str, index: Tensor, count: int) -> np.ndarray:
    """`count` random 64-bit words for each sample index[k], [B, count]: the counter of sample i starts at i * blocks.

    A dense range of indices, as a batch is, costs one call.
    """
    blocks = -(-count // 4)  # of four words, what one count of Philox yields
    wanted = index.numpy()
    first, last = (int(wanted.min()), int(wanted.max())) if len(wanted) else (0, -1)
    if last - first < 4 * len(wanted):
        raw = generator(seed, purpose, first * blocks).bit_generator.random_raw((last - first + 1) * blocks * 4)
        return raw.reshape(-1, blocks * 4)[wanted - first, :count]
    rows = [generator(seed, purpose, int(i) * blocks).bit_generator.random_raw(blocks * 4) for i in wanted]
    return np.stack(rows)[:, :count]


def normal(seed: int, purpose: str, index: Tensor, shape: Sequence[int]) -> Tensor:
    """Standard normal [B, *shape], float32; row k belongs to sample index[k]. Box-Muller on a pair of words."""
    size = int(np.prod(shape))
    pairs = (_words(seed, purpose, index, size + size % 2) >> np.uint64(11)) * 2.0**-53
    radius, angle = np.sqrt(-2 * np.log1p(-pairs[:, 0::2])), 2 * np.pi * pairs[:, 1::2]
    values = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)[:, :size]
    return torch.from_numpy(values.astype(np.float32)).reshape(len(index), *shape)


def uniform(seed: int, purpose: str, index: Tensor) -> Tensor:
    """Uniform in [0, 1), [B] float32; row k belongs to sample index[k]."""
    words = _words(seed, purpose, index, 1)[:, 0]
    return torch.from_numpy(((words >> np.uint64(40)) * 2.0**-24).astype(np.float32))


def permutation(seed: int, purpose: str, index: int, n: int) -> Tensor:
    """A permutation of range(n), [n] int64: that of epoch or step `index`."""
    return torch.from_numpy(generator(seed, purpose, index << 128).permutation(n))
