"""Regions of a network: the blocks that are compiled, checkpointed and sharded one by one."""

from torch import nn

from decm.networks.layers import Block, EndEmbedding, TimeEmbedding


def regions(network: nn.Module) -> dict[str, Block]:
    """The blocks of a network, by name."""
    return {name: part for name, part in network.named_modules() if isinstance(part, Block)}


def embeddings(network: nn.Module) -> dict[str, nn.Module]:
    """What stays in float32 whatever the precision: the embeddings of times."""
    return {name: part for name, part in network.named_modules() if isinstance(part, TimeEmbedding | EndEmbedding)}


def prepare_regions(network: nn.Module, compiled: bool = False, checkpointed: bool = False) -> None:
    """Compile and checkpoint each block from now on. Raises ValueError where a network has no blocks."""
    blocks = regions(network)
    if (compiled or checkpointed) and not blocks:
        raise ValueError(
            f"{type(network).__name__} has no blocks to compile or to checkpoint. Set trainer.compile=false and "
            "trainer.activation_checkpointing=false, or choose a transformer."
        )
    for block in blocks.values():
        block.compiled, block.checkpointed = compiled, checkpointed
