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
    """The random stream of (seed, purpose, index); streams of different triples never meet."""
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=16).digest()
    key = int.from_bytes(digest, "little")
    return np.random.Generator(np.random.Philox(key=key, counter=index << 128))


def normal(seed: int, purpose: str, index: Tensor, shape: Sequence[int]) -> Tensor:
    """Standard normal [B, *shape], float32; row k belongs to sample index[k]."""
    rows = [generator(seed, purpose, int(i)).standard_normal(tuple(shape), dtype=np.float32) for i in index]
    return torch.from_numpy(np.stack(rows)) if rows else torch.zeros(0, *shape)


def uniform(seed: int, purpose: str, index: Tensor) -> Tensor:
    """Uniform in [0, 1), [B] float32; row k belongs to sample index[k]."""
    return torch.tensor([generator(seed, purpose, int(i)).random(dtype=np.float32) for i in index])


def permutation(seed: int, purpose: str, index: int, n: int) -> Tensor:
    """A permutation of range(n), [n] int64: that of epoch or step `index`."""
    return torch.from_numpy(generator(seed, purpose, index).permutation(n))
