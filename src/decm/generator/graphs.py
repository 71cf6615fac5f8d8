"""The one-step generator (z, y) -> x as a program of torch.export or as an ONNX graph, with a check against eager."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from decm.checkpoints.durable import publish, sync
from decm.flow.flow_map import FlowMap
from decm.flow.randomness import normal
from decm.flow.solvers import sample
from decm.generator.model import Generator

FORMATS = {"torch_export": "generator.pt2", "onnx": "generator.onnx"}
TOLERANCE = 1e-4  # of max |x - eager x| / max |eager x|
CHECKED = (1, 3, 8)  # numbers of rows that are compared; the graph is made of another
OPSET = 18
LARGEST_ONNX = 2**31 - 2**20  # bytes of weights that a protobuf file takes
Run = Callable[[Tensor, Tensor], Tensor]


class OneStep(nn.Module):
    """Noise z [B, C, H, W] and labels y [B] to normalized states x, by one network step of the model's own sampler."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.network, self.sampler = generator.network, generator.sampler(1)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return sample(FlowMap(self.network), z, y, 1, self.sampler, no_noise)


def no_noise(k: int) -> Tensor:
    raise AssertionError("one step renoises nothing")


def write_graph(generator: Generator, kind: str, file: Path, overwrite: bool) -> float:
    """Write the graph and read it back; the largest error relative to eager.

    Raises ValueError, and leaves no file, where that is above 1e-4; and if there is a file already, unless `overwrite`.
    """
    if file.exists() and not overwrite:
        raise ValueError(f"{file} exists. Choose another folder, or set overwrite=true.")
    one = OneStep(generator).eval()
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".part-{file.name}")
    metadata = json.dumps({key: generator.config[key] for key in ("data", "code_version", "step", "weights")})
    try:
        run = {"torch_export": torch_program, "onnx": onnx_graph}[kind](one, inputs(generator, 2), part, metadata)
        error = largest_error(run, one, generator)
        if not error <= TOLERANCE:
            raise ValueError(
                f"The graph differs from the network by {error:.1e} of the largest value; expected {TOLERANCE:g} at "
                f"most. Nothing was written. Choose another format than {kind}."
            )
        sync(part)
        publish(part, file)
    finally:
        part.unlink(missing_ok=True)
    return error


def inputs(generator: Generator, rows: int) -> tuple[Tensor, Tensor]:
    """Noise and labels, spread over the classes."""
    index = torch.arange(rows)
    classes = max(1, generator.manifest.num_classes)
    return normal(0, "export", index, generator.manifest.shape), index * max(1, classes // 3) % classes


@torch.no_grad()
def largest_error(run: Run, one: nn.Module, generator: Generator) -> float:
    """max |run - eager| over max |eager|, over several numbers of rows; NaN where there is one."""
    errors = []
    for rows in CHECKED:
        expected, found = one(*inputs(generator, rows)), run(*inputs(generator, rows))
        if found.shape != expected.shape:
            return float("inf")
        errors.append((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
    return float(torch.stack(errors).max())


def torch_program(one: nn.Module, example: tuple[Tensor, Tensor], file: Path, metadata: str) -> Run:
    """torch.export's program, with the metadata as its extra file decm.json."""
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(one, example, dynamic_shapes={"z": {0: batch}, "y": {0: batch}})
    with file.open("wb") as opened:  # by its name the part is no .pt2
        torch.export.save(program, opened, extra_files={"decm.json": metadata})
    with file.open("rb") as opened:
        return torch.export.load(opened).module()


def onnx_graph(one: nn.Module, example: tuple[Tensor, Tensor], file: Path, metadata: str) -> Run:
    """An ONNX graph, with `metadata` among its properties.

    torch's newer exporter needs onnxscript, which the lock does not have; this is the one by TorchScript.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise ValueError(f"format=onnx needs {error.name}: install decm with its extra, `decm[export]`.") from error
    needed = sum(value.numel() * value.element_size() for value in one.state_dict().values())
    if needed > LARGEST_ONNX:
        raise ValueError(f"{needed:,} bytes of weights are more than one ONNX file takes. Choose format=torch_export.")
    register = torch.onnx.register_custom_op_symbolic
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about its age, and of constants that it folds
        register("aten::rms_norm", rms_norm, OPSET)
        torch.onnx.export(
            one,
            example,
            str(file),
            dynamo=False,
            opset_version=OPSET,
            input_names=["z", "y"],
            output_names=["x"],
            dynamic_axes={name: {0: "batch"} for name in "zyx"},
        )
    model = onnx.load(file)
    onnx.helper.set_model_props(model, {"decm": metadata})
    onnx.checker.check_model(model)
    onnx.save(model, file)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda z, y: torch.from_numpy(session.run(["x"], {"z": z.numpy(), "y": y.numpy()})[0])


def rms_norm(g: Any, x: Any, shape: Any, weight: Any, eps: Any) -> Any:
    """x / sqrt(mean x^2 + eps) * weight over the last axis, which the TorchScript exporter does not know."""
    last = g.op("Constant", value_t=torch.tensor([-1]))
    square = g.op("ReduceMean", g.op("Mul", x, x), last, keepdims_i=1)
    return g.op("Mul", g.op("Div", x, g.op("Sqrt", g.op("Add", square, eps))), weight)
