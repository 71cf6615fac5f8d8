"""A CUDA device that is not there: what is on it has a shape and no values, so that to wait for it is an error."""

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves

DEVICE, CPU = torch.device("cuda", 0), torch.device("cpu")


class WaitsForDeviceError(RuntimeError):
    """A number of the device was asked for on the host."""


class FakeGPU(FakeTensorMode):
    """Operations on the CPU are real; those that meet the device have shapes alone.

    Raises WaitsForDeviceError where the host asks for a value, or a size, that the device must compute, and where
    tensors of both devices meet. With `reads`, a copy from the device is no error, and is of zeros.
    """

    def __init__(self, reads=False):
        super().__init__(allow_non_fake_inputs=True)
        self.reads = reads

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
        to_cpu = (kwargs or {}).get("device") == CPU
        if to_cpu and (
            func is torch.ops.aten.empty_like.default or (self.reads and func is torch.ops.aten._to_copy.default)
        ):
            with _disable_current_modes():
                return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if self.reads and func is torch.ops.aten.copy_.default and not args[0].is_cuda:
            return args[0]
        try:
            out = super().__torch_dispatch__(func, types, args, kwargs)
        except (RuntimeError, NotImplementedError) as error:
            raise WaitsForDeviceError(f"{func}: {type(error).__name__}: {error}") from error
        if any(isinstance(v, torch.Tensor) and not v.is_cuda for v in tree_leaves(out)) and any(
            v.is_cuda for v in tensors
        ):
            raise WaitsForDeviceError(f"{func} copies from the device")
        return out


def put_there(module):
    """The module with parameters and buffers of the fake device, which `to` cannot give it."""
    for part in module.modules():
        for name, p in part.named_parameters(recurse=False):
            part._parameters[name] = torch.nn.Parameter(torch.empty_like(p, device=DEVICE), p.requires_grad)
        for name, buffer in part.named_buffers(recurse=False):
            part._buffers[name] = torch.empty_like(buffer, device=DEVICE)
    return module
