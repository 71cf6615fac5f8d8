"""What the tests of the Triton kernel run in a process of its own; prints one JSON object.

python triton_kernel.py interpret    errors against the definition, by the interpreter (TRITON_INTERPRET=1 is set before
                                     Triton is imported, which PyTorch and timm do on the way)
python triton_kernel.py compile      what the compiler needs for a GPU that need not be here
"""

import json
import os
import sys

if sys.argv[1] == "interpret":
    os.environ["TRITON_INTERPRET"] = "1"

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from attention_tangents import MISTAKES, by_definition, random_inputs
from decm.networks import attention_triton
from decm.networks.attention_triton import TILES, Tile, fits, launch, parts
from helpers import relative_error

SMALL, UNEVEN = Tile(64, 64, 4, 1), Tile(16, 32, 4, 1)
CASES = [
    *((torch.float32, N, D, SMALL) for N in (1, 17, 64, 130) for D in (72, 64, 40, 16)),
    *((dtype, N, 72, SMALL) for dtype in (torch.bfloat16, torch.float16) for N in (1, 17, 64, 130)),
    *((torch.bfloat16, 17, D, SMALL) for D in (64, 40, 16)),
    *((torch.float32, 17, D, SMALL) for D in (8, 32, 48, 80, 96, 128)),
    (torch.float32, 50, 72, UNEVEN),
]
CARDS = {80: 166_912, 89: 101_376, 90: 232_448}  # compute capability: shared memory of a block, bytes


def errors(dtype, N, D, tile):
    """{truth: [error of o, error of do]}, for the definition and for the mistakes."""
    views = (part.transpose(1, 2) for part in random_inputs(N, D, dtype, batch=2 if tile == UNEVEN else 1))
    inputs = tuple(part.contiguous().transpose(1, 2) for part in views)
    outputs = launch(inputs, tile)
    truths = {"definition": by_definition, **(MISTAKES if N > 1 else {})}
    return {
        name: [relative_error(ours.double(), theirs) for ours, theirs in zip(outputs, truth(*inputs), strict=True)]
        for name, truth in truths.items()
    }


def compiled(card, D):
    """[shared memory in bytes, tile] of the kernel for bfloat16."""
    tile = next(tile for tile in TILES if fits(tile, D, 2, CARDS[card]))
    pointers = ("q", "k", "v", "dq", "dk", "dv", "o", "do")
    values = dict(zip(("D", "D1", "D2"), (D, *parts(D)), strict=True))
    values |= {"ROWS": tile.rows, "KEYS": tile.keys, "PRECISION": "ieee"}
    types = dict.fromkeys(pointers, "*bf16") | {"N": "i32", "scale2": "fp32", "scale": "fp32"}
    source = ASTSource(attention_triton._kernel, types | dict.fromkeys(values, "constexpr"), values)
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    kernel = triton.compile(source, target=GPUTarget("cuda", card, 32), options=options)
    assert kernel.asm["cubin"]
    return [kernel.metadata.shared, tile]


if sys.argv[1] == "interpret":
    found = {
        f"{str(dtype)[6:]} N={N} D={D} tile={tile.rows}x{tile.keys}": errors(dtype, N, D, tile)
        for dtype, N, D, tile in CASES
    }
else:
    found = {f"sm_{card}": compiled(card, 72) for card in CARDS}
print(json.dumps(found))
