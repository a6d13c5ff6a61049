"""Activations that OpenVINO does not fuse into the product before them.

In f32 its CPU plugin computes a plain fully connected layer by MLAS, and one with an activation fused into it by
oneDNN, with which some batches take up to 1.9 times as long (bench/RESULTS.md). Written out in other operations, an
activation stays on its own.
"""

from __future__ import annotations

import math

import numpy as np
import openvino as ov
import openvino.opset13 as ops


def unfused(model: ov.Model) -> ov.Model:
    """`model` itself, with cn_clip's activations written out: the same functions, up to rounding.

    Those are the GELU with erf, and Swish with its β. Others, as of a checkpoint's own configuration, stay as they are.
    """
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind == "Gelu" and node.get_attributes().get("approximation_mode", "ERF") == "ERF":
            written = _gelu(node.input_value(0))
        elif kind == "Swish" and len(node.inputs()) == 2:
            written = _swish(node.input_value(0), float(node.input_value(1).get_node().data))
        else:
            continue
        for reader in list(node.output(0).get_target_inputs()):
            reader.replace_source_output(written.output(0))
    return model


def _gelu(x: ov.Output) -> ov.Node:
    """x/2 + x/2 erf(x/√2): GELU of BERT's layers (cn_clip/clip/modeling_bert.py, gelu)."""
    half = ops.multiply(x, np.float32(0.5))
    return ops.add(half, ops.multiply(half, ops.erf(ops.multiply(x, np.float32(math.sqrt(0.5))))))


def _swish(x: ov.Output, beta: float) -> ov.Node:
    """x (1 + tanh(βx/2)) / 2 = x sigmoid(βx): QuickGELU with β = 1.702 (cn_clip/clip/model.py)."""
    tanh = ops.tanh(ops.multiply(x, np.float32(beta / 2)))
    return ops.multiply(x, ops.add(ops.multiply(tanh, np.float32(0.5)), np.float32(0.5)))
