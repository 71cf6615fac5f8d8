"""FSDP2 over student, EMA and teacher, and checkpoints that every rank writes its part of."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from decm.checkpoints.files import read_file
from decm.checkpoints.sealed import put_tensors, take_tensors
from decm.checkpoints.sharded import Like, read_sharded, write_sharded
from decm.networks.regions import embeddings, regions

PRECISIONS = {"32-true": None, "bf16-mixed": torch.bfloat16}  # trainer.precision -> what parameters are cast to


@dataclass(frozen=True)
class Sharding:
    """How networks are sharded where the strategy has a mesh.

    `dtype` is what parameters are cast to while they are used; gradients are reduced in float32. With `reshard` they
    are gathered anew in each pass, otherwise they stay gathered until the backward pass (or for ever, if frozen).
    """

    dtype: torch.dtype | None = None
    reshard: bool = False


def shard(network: nn.Module, mesh: DeviceMesh, dtype: torch.dtype | None, reshard: bool) -> None:
    """Shard a network's parameters over `mesh`: each block, each embedding of times (in float32), and the rest."""
    cast = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    plain = MixedPrecisionPolicy(cast_forward_inputs=False)
    for part in embeddings(network).values():
        fully_shard(part, mesh=mesh, mp_policy=plain, reshard_after_forward=reshard)
    for part in regions(network).values():
        fully_shard(part, mesh=mesh, mp_policy=cast, reshard_after_forward=reshard)
    fully_shard(network, mesh=mesh, mp_policy=cast, reshard_after_forward=reshard)


def skeleton(network: nn.Module) -> nn.Module:
    """A copy with buffers but without the memory of parameters, for `gathered` to fill."""
    empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=False) for p in network.parameters()}
    return copy.deepcopy(network, dict(empty))


def gathered(whole: nn.Module, sharded: nn.Module) -> nn.Module:
    """The skeleton `whole` with all the parameters of a sharded network; all ranks must call this."""
    whole.load_state_dict({name: full(value) for name, value in sharded.state_dict().items()}, assign=True)
    return whole


def gather_anew(network: nn.Module) -> None:
    """Drop gathered parameters, as after the local parts were changed in place."""
    for part in network.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def local(parameter: Tensor) -> Tensor:
    """The part of a parameter that this rank holds."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def full(value: Tensor) -> Tensor:
    """The whole of a tensor; on a sharded one, all ranks must call this."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def distributed(checkpoint: dict[str, Any], like: Like) -> dict[str, Any]:
    """A whole checkpoint, which each rank has read, cut into the parts that ranks hold of it."""
    tensors: dict[str, Tensor] = {}
    rest = take_tensors(checkpoint, tensors)
    for key, value in tensors.items():
        part = like(key, value.shape, value.dtype)
        if isinstance(part, DTensor):
            held = value.to(part.device)
            tensors[key] = distribute_tensor(held, part.device_mesh, part.placements, src_data_rank=None)
    return put_tensors(rest, tensors)


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2 over all devices; checkpoints are folders of safetensors that any number of ranks can read.

    The module shards its networks in `configure_model`.
    """

    lightning_restore_optimizer = True

    def setup_environment(self) -> None:
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        return optimizer.state_dict()

    def load_model_state_dict(self, checkpoint: Any, strict: bool = True) -> None:
        assert self.lightning_module is not None
        self.lightning_module.load_state_dict(checkpoint["state_dict"], strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Any) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(state)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        write_sharded(checkpoint, Path(self.broadcast(filepath)), self.global_rank, self.barrier)
        if storage_options is not None and self.is_global_zero:
            storage_options()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        assert self.lightning_module is not None
        state = self.lightning_module.state_dict()
        optimized = [[p for group in o.param_groups for p in group["params"]] for o in self.optimizers]

        def like(key: str, size: torch.Size, dtype: torch.dtype) -> Tensor:
            """What this rank holds of a stored tensor: the same part as of the parameter that it belongs to."""
            kind, *path = key.split("/")
            if kind == "state_dict":
                parameter = state.get(path[0])
            elif kind == "optimizer_states":  # number of the optimizer, "state", number of the parameter, name
                parameter = optimized[int(path[0])][int(path[2])]
            else:
                parameter = state.get(f"student.{path[-1]}")
            if isinstance(parameter, DTensor) and parameter.shape == size:
                return torch.zeros_like(parameter, dtype=dtype)
            return torch.zeros(size, dtype=dtype)

        path = Path(self.broadcast(checkpoint_path))
        return read_sharded(path, like) if path.is_dir() else distributed(read_file(path), like)
