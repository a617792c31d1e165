"""A generator as an ONNX graph: a node per layer, for any batch, height and width.

Written layer by layer instead of by PyTorch's exporters: those differ between the versions of PyTorch we support, and
fix what depends on the size of the example they follow. Instance norm and batch norm both become
`InstanceNormalization`, which is what they are in use: each image is normalised by its own statistics. Only the norm
that keeps running averages becomes `BatchNormalization`.
"""

import operator
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from img2img.data.picture import Array
from img2img.errors import ConfigError
from img2img.networks.conditional import rows_of
from img2img.networks.layers import ReflectPad
from img2img.networks.norms import BatchNorm, InstanceNorm, RunningBatchNorm
from img2img.runtime.compiling import reason

OPSET = 17
IR_VERSION = 8  # of the same age
Node = tuple[str, list[Tensor | Array | None], dict[str, Any]]  # operator, inputs after the first, attributes


def _conv(kind: str, layer: nn.Conv2d | nn.ConvTranspose2d) -> Node:
    p = int(layer.padding[0])
    extra = {"output_padding": layer.output_padding} if kind == "ConvTranspose" else {}
    return kind, [layer.weight, layer.bias], {"strides": layer.stride, "pads": [p] * 4, **extra}


def _instance_norm(scale: Tensor, shift: Tensor, eps: float = 1e-5) -> Node:
    return "InstanceNormalization", [scale, shift], {"epsilon": eps}


def _running_norm(layer: RunningBatchNorm) -> Node:
    averages = [layer.running_mean, layer.running_var]
    return "BatchNormalization", [layer.weight, layer.bias, *averages], {"epsilon": layer.eps}


def _pad(mode: str, layer: Any) -> Node:
    left, right, top, bottom = (layer.padding,) * 4 if isinstance(layer.padding, int) else layer.padding
    return "Pad", [np.array([0, 0, top, left, 0, 0, bottom, right], np.int64)], {"mode": mode}


def _upsample(layer: nn.Upsample) -> Node:
    scales = np.array([1, 1, layer.scale_factor, layer.scale_factor], np.float32)
    rule = {"mode": layer.mode, "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return "Resize", [None, scales], rule


LAYERS: dict[type[nn.Module], Callable[[Any], Node | None]] = {
    nn.Conv2d: partial(_conv, "Conv"),
    nn.ConvTranspose2d: partial(_conv, "ConvTranspose"),
    nn.Linear: lambda layer: ("Gemm", [layer.weight, layer.bias], {"transB": 1}),
    InstanceNorm: lambda layer: _instance_norm(torch.ones(layer.channels), torch.zeros(layer.channels)),
    RunningBatchNorm: _running_norm,
    BatchNorm: lambda layer: _instance_norm(layer.weight, layer.bias, layer.eps),
    ReflectPad: partial(_pad, "reflect"),
    nn.ReplicationPad2d: partial(_pad, "edge"),
    nn.ZeroPad2d: partial(_pad, "constant"),
    nn.Upsample: _upsample,
    nn.ReLU: lambda layer: ("Relu", [], {}),
    nn.LeakyReLU: lambda layer: ("LeakyRelu", [], {"alpha": layer.negative_slope}),
    nn.Tanh: lambda layer: ("Tanh", [], {}),
    nn.Sigmoid: lambda layer: ("Sigmoid", [], {}),
    nn.Identity: lambda layer: None,
    nn.Dropout: lambda layer: None,
}
# What is called on values, as functions or as methods: an operator, its inputs and its attributes, from the arguments.
Call = tuple[str, list[Any], dict[str, Any]]


def _flatten(x: Any, start_dim: int = 0, end_dim: int = -1) -> Call:
    _demand(start_dim == 1 and end_dim == -1, "flatten of other dimensions than all but the first")
    return "Flatten", [x], {"axis": 1}


def _reshape(x: Any, *shape: Any) -> Call:
    _demand(all(isinstance(n, int) for n in shape), "a reshape that depends on the input")
    return "Reshape", [x, np.array(shape, np.int64)], {}


def _one_hot(label: Any, num_classes: int) -> Call:
    return "OneHot", [label, np.array([num_classes], np.int64), np.array([0, 1], np.float32)], {"axis": -1}


def _plain(kind: str, *inputs: Any) -> Call:
    return kind, list(inputs), {}


CALLS: dict[Any, Callable[..., Call]] = {
    torch.cat: lambda parts, dim=0: ("Concat", list(parts), {"axis": dim}),
    **dict.fromkeys((torch.flatten, "flatten"), _flatten),
    **dict.fromkeys(("reshape", "view"), _reshape),
    **dict.fromkeys((torch.unsqueeze, "unsqueeze"), lambda x, dim: ("Unsqueeze", [x, np.array([dim], np.int64)], {})),
    F.one_hot: _one_hot,
    rows_of: _one_hot,
    # "to" converts a number to the type of another: all values but labels are fp32
    **dict.fromkeys(("to", "float", "contiguous"), lambda x, *_, **__: ("Identity", [x], {})),
    "mean": lambda x, dim, keepdim: ("ReduceMean", [x], {"axes": [dim], "keepdims": int(keepdim)}),
    torch.sqrt: partial(_plain, "Sqrt"),
    torch.tanh: partial(_plain, "Tanh"),
    torch.sigmoid: partial(_plain, "Sigmoid"),
    **dict.fromkeys((operator.add, torch.add), partial(_plain, "Add")),
    **dict.fromkeys((operator.sub, torch.sub), partial(_plain, "Sub")),
    **dict.fromkeys((operator.mul, torch.mul), partial(_plain, "Mul")),
    operator.truediv: partial(_plain, "Div"),
}


class _Tracer(fx.Tracer):
    """Follows `forward` symbolically, down to the layers of the table."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return _entry(m) is not None


def _entry(layer: nn.Module) -> Callable[[Any], Node | None] | None:
    return next((LAYERS[kind] for kind in type(layer).__mro__ if kind in LAYERS), None)


def _demand(condition: bool, otherwise: str) -> None:
    """Raise an error that names what has no form in ONNX here, unless `condition` holds."""
    if not condition:
        raise NotImplementedError(otherwise)


class _Graph:
    """The nodes and constants of a graph, and the name of each value of the trace."""

    def __init__(self, onnx: Any) -> None:
        self.helper, self.from_array = onnx.helper, onnx.numpy_helper.from_array
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self.names: dict[fx.Node, str] = {}

    def constant(self, name: str, value: Any) -> str:
        """Return the name of a constant; "" for an input that is left out."""
        if value is None:
            return ""
        array = value.detach().numpy() if isinstance(value, Tensor) else np.asarray(value)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        self.constants[name] = self.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        return name

    def add(self, step: fx.Node, kind: str, inputs: list[str], attributes: dict[str, Any], name: str) -> None:
        while inputs and not inputs[-1]:
            inputs.pop()
        self.nodes.append(self.helper.make_node(kind, inputs, [step.name], name, **attributes))
        self.names[step] = step.name

    def layer(self, step: fx.Node, layer: nn.Module) -> None:
        entry = _entry(layer)
        if entry is None or len(step.args) != 1 or step.kwargs:
            raise NotImplementedError(type(layer).__name__)
        node, before = entry(layer), self.names[step.args[0]]  # type: ignore[index]
        if node is None:
            self.names[step] = before
            return
        kind, values, attributes = node
        inputs = [self.constant(f"{step.target}.{i}", value) for i, value in enumerate(values)]
        self.add(step, kind, [before, *inputs], attributes, str(step.target))

    def call(self, step: fx.Node) -> None:
        _demand(step.target in CALLS, getattr(step.target, "__name__", str(step.target)))
        kind, values, attributes = CALLS[step.target](*step.args, **step.kwargs)
        inputs = []
        for i, value in enumerate(values):
            known = isinstance(value, fx.Node)
            number = np.float32(value) if isinstance(value, int | float) else value
            inputs.append(self.names[value] if known else self.constant(f"{step.name}.{i}", number))
        self.add(step, kind, inputs, attributes, step.name)

    def end(self, value: Any) -> None:
        """Name the output."""
        _demand(isinstance(value, fx.Node), "several outputs")
        self.nodes.append(self.helper.make_node("Identity", [self.names[value]], ["output"], "output"))


def onnx_model(onnx: Any, network: nn.Module, inputs: Mapping[str, Tensor], metadata: dict[str, str]) -> Any:
    """Return the ONNX model of `network`, whose output, in fp32, is called "output".

    Args:
        onnx: the package of that name.
        network: a generator, in evaluation mode.
        inputs: an example of each input by its name, in the order of the arguments: images (N, C, H, W), noise
            (N, length), or class indices (N,).
        metadata: kept in the model's `metadata_props`.

    Raises:
        ConfigError: if the network does something that is not in the tables here.
    """
    graph = _Graph(onnx)
    try:
        names = iter(inputs)
        for step in _Tracer().trace(network).nodes:
            if step.op == "placeholder":
                graph.names[step] = next(names)
            elif step.op == "get_attr":
                graph.names[step] = graph.constant(step.target, operator.attrgetter(step.target)(network))
            elif step.op == "call_module":
                graph.layer(step, network.get_submodule(step.target))
            elif step.op == "output":
                graph.end(step.args[0])
            else:
                graph.call(step)
        with torch.inference_mode():
            output = network(*inputs.values())
    except Exception as error:  # whatever the tracer cannot follow
        raise unsupported(network, error) from error

    def ends(values: Mapping[str, Tensor]) -> Iterator[Any]:
        kinds = {torch.float32: onnx.TensorProto.FLOAT, torch.int64: onnx.TensorProto.INT64}
        free = any(x.dim() == 4 for x in inputs.values())  # height and width are those of the image that goes in
        for name, x in values.items():
            size = ["height", "width"] if free and x.dim() == 4 else list(x.shape[2:])
            yield graph.helper.make_tensor_value_info(name, kinds[x.dtype], ["batch", *x.shape[1:2], *size])

    parts = list(ends(inputs)), list(ends({"output": output})), list(graph.constants.values())
    model = graph.helper.make_model(
        graph.helper.make_graph(graph.nodes, "generator", *parts),
        producer_name="img2img",
        ir_version=IR_VERSION,
        opset_imports=[graph.helper.make_opsetid("", OPSET)],
    )
    graph.helper.set_model_props(model, metadata)
    return model


def unsupported(network: nn.Module, error: Exception) -> ConfigError:
    """Return the error that says that a network has no form in ONNX here."""
    return ConfigError(
        f"{type(network).__name__} has a step without a form in ONNX here ({reason(error).rstrip('.')}); export it as "
        "TorchScript (.pt)."
    )
