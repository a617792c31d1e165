"""A generator as an ONNX graph: a node per layer, for any batch, height and width.

Written layer by layer instead of by PyTorch's exporters: those differ between the versions of PyTorch we support, and
fix what depends on the size of the example they follow. Instance norm and batch norm both become
`InstanceNormalization`, which is what they are in use: each image is normalised by its own statistics.
"""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from img2img.data.images import Array
from img2img.errors import ConfigError
from img2img.networks.layers import BatchNorm, InstanceNorm, ReflectPad

OPSET = 17
IR_VERSION = 8  # of the same age
Node = tuple[str, list[Tensor | Array | None], dict[str, Any]]  # operator, inputs after the first, attributes


def _conv(layer: nn.Conv2d) -> Node:
    p = int(layer.padding[0])
    return "Conv", [layer.weight, layer.bias], {"strides": layer.stride, "pads": [p] * 4}


def _conv_transpose(layer: nn.ConvTranspose2d) -> Node:
    p = int(layer.padding[0])
    return (
        "ConvTranspose",
        [layer.weight, layer.bias],
        {"strides": layer.stride, "pads": [p] * 4, "output_padding": layer.output_padding},
    )


def _instance_norm(layer: InstanceNorm) -> Node:
    return "InstanceNormalization", [torch.ones(layer.channels), torch.zeros(layer.channels)], {"epsilon": 1e-5}


def _batch_norm(layer: BatchNorm) -> Node:
    return "InstanceNormalization", [layer.weight, layer.bias], {"epsilon": layer.eps}


def _pad(mode: str) -> Callable[[Any], Node]:
    def pad(layer: Any) -> Node:
        left, right, top, bottom = (layer.padding,) * 4 if isinstance(layer.padding, int) else layer.padding
        return "Pad", [np.array([0, 0, top, left, 0, 0, bottom, right], np.int64)], {"mode": mode}

    return pad


def _upsample(layer: nn.Upsample) -> Node:
    scales = np.array([1, 1, layer.scale_factor, layer.scale_factor], np.float32)
    rule = {"mode": layer.mode, "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return "Resize", [None, scales], rule


LAYERS: dict[type[nn.Module], Callable[[Any], Node | None]] = {
    nn.Conv2d: _conv,
    nn.ConvTranspose2d: _conv_transpose,
    InstanceNorm: _instance_norm,
    BatchNorm: _batch_norm,
    ReflectPad: _pad("reflect"),
    nn.ReplicationPad2d: _pad("edge"),
    nn.ZeroPad2d: _pad("constant"),
    nn.Upsample: _upsample,
    nn.ReLU: lambda layer: ("Relu", [], {}),
    nn.LeakyReLU: lambda layer: ("LeakyRelu", [], {"alpha": layer.negative_slope}),
    nn.Tanh: lambda layer: ("Tanh", [], {}),
    nn.Identity: lambda layer: None,
    nn.Dropout: lambda layer: None,
}
FUNCTIONS: dict[Any, tuple[str, dict[str, Any]]] = {operator.add: ("Add", {}), torch.cat: ("Concat", {"axis": 1})}


class _Tracer(fx.Tracer):
    """Follows `forward` symbolically, down to the layers of the table."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return _entry(m) is not None


def _entry(layer: nn.Module) -> Callable[[Any], Node | None] | None:
    return next((LAYERS[kind] for kind in type(layer).__mro__ if kind in LAYERS), None)


def _no_form(network: nn.Module, step: str) -> str:
    what = step.rstrip(".")
    return f"{type(network).__name__} has a step without a form in ONNX here ({what}); export it as TorchScript (.pt)."


def onnx_model(onnx: Any, network: nn.Module, channels: tuple[int, int], metadata: dict[str, str]) -> Any:
    """The ONNX model of `network`: "input" (N, C, H, W) to "output", both fp32 in [-1, 1].

    Args:
        onnx: the package of that name.
        channels: of input and output.
        metadata: kept in the model's `metadata_props`.

    Raises:
        ConfigError: if the network does something that is not in the tables here.
    """
    helper, from_array = onnx.helper, onnx.numpy_helper.from_array
    nodes: list[Any] = []
    constants: list[Any] = []
    values: dict[Any, str] = {}  # what holds the value of a step of the trace

    def constant(name: str, value: Tensor | Array | None) -> str:
        if value is None:
            return ""
        array = value.detach().numpy() if isinstance(value, Tensor) else value
        constants.append(from_array(np.ascontiguousarray(array), name))
        return name

    try:
        steps = _Tracer().trace(network).nodes
    except (fx.proxy.TraceError, TypeError) as error:
        raise ConfigError(_no_form(network, str(error).partition("\n")[0])) from error
    for step in steps:
        if step.op == "placeholder":
            values[step] = "input"
        elif step.op == "call_module":
            layer = network.get_submodule(step.target)
            entry = _entry(layer)
            assert entry is not None
            node, before = entry(layer), values[step.args[0]]
            values[step] = step.name if node else before
            if node:
                kind, inputs, attributes = node
                names = [constant(f"{step.target}.{i}", value) for i, value in enumerate(inputs)]
                while names and not names[-1]:
                    names.pop()
                nodes.append(helper.make_node(kind, [before, *names], [step.name], step.target, **attributes))
        elif step.op == "call_function" and step.target in FUNCTIONS:
            kind, attributes = FUNCTIONS[step.target]
            parts = step.args if kind == "Add" else step.args[0]
            nodes.append(helper.make_node(kind, [values[x] for x in parts], [step.name], **attributes))
            values[step] = step.name
        elif step.op != "output":
            raise ConfigError(_no_form(network, step.name))
        else:
            nodes[-1].output[0] = "output"

    ends = [
        helper.make_tensor_value_info(end, onnx.TensorProto.FLOAT, ["batch", count, "height", "width"])
        for end, count in zip(("input", "output"), channels, strict=True)
    ]
    graph = helper.make_graph(nodes, "generator", ends[:1], ends[1:], constants)
    model = helper.make_model(
        graph, producer_name="img2img", ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)]
    )
    helper.set_model_props(model, metadata)
    return model
