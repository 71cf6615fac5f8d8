"""A CUDA device that is not there: what is on it has a shape and no values, so that to wait for it is an error."""

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("cuda", 0)


class WaitsForDeviceError(RuntimeError):
    """A number of the device was asked for on the host."""


class FakeGPU(FakeTensorMode):
    """Operations on the CPU are real; those that meet the device have shapes alone.

    Raises WaitsForDeviceError where the host asks for a value, or a size, that the device must compute, and where
    tensors of both devices meet.
    """

    def __init__(self):
        super().__init__(allow_non_fake_inputs=True)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = tree_leaves((args, kwargs))
        tensors = [value for value in given if isinstance(value, torch.Tensor)]
        there = [value for value in given if isinstance(value, torch.device) and value.type == DEVICE.type]
        sides = {value.is_cuda for value in tensors if value.ndim}
        if len(sides) == 2 and func is not torch.ops.aten.copy_.default:
            raise WaitsForDeviceError(f"{func}: tensors of both devices meet")
        if not there and not any(isinstance(value, FakeTensor) for value in tensors):
            with _disable_current_modes():
                return func(*args, **(kwargs or {}))
        try:
            out = super().__torch_dispatch__(func, types, args, kwargs)
        except (RuntimeError, NotImplementedError) as error:
            raise WaitsForDeviceError(f"{func}: {type(error).__name__}: {error}") from error
        if any(isinstance(v, torch.Tensor) and not v.is_cuda for v in tree_leaves(out)) and any(
            v.is_cuda for v in tensors
        ):
            raise WaitsForDeviceError(f"{func} copies from the device")
        return out
