"""Whether TensorRT knows every operator of an ONNX file."""

from pathlib import Path

TENSORRT = "8.4"
"""The version whose list this is; later ones know more."""

_NAMES = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Celu Clip Concat
Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout Einsum Elu
Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND Gemm GlobalAveragePool GlobalLpPool
GlobalMaxPool Greater GreaterOrEqual GRU HardSigmoid Identity If ImageScaler InstanceNormalization IsNaN LeakyRelu
Less LessOrEqual Log LogSoftmax Loop LRN LSTM LpNormalization LpPool MatMul Max MaxPool Mean Min Mul Neg Not Or Pad
ParametricSoftplus Pow PRelu QuantizeLinear RandomUniform RandomUniformLike Range ReduceL1 ReduceL2 ReduceLogSum
ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize
ReverseSequence RNN Round ScaledTanh Scan Scatter ScatterElements ScatterND Selu Shape Sigmoid Sign Sin Sinh Size
Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose
Unsqueeze Upsample Where Xor
"""
KNOWN = frozenset(_NAMES.split())
"""docs/operators.md of github.com/onnx/onnx-tensorrt; what has restrictions there is not told apart."""

MOST_TOPK = 3840
"""Largest K of TensorRT's TopK."""


def check_tensorrt(file: Path) -> list[str]:
    """List what TensorRT would not take of an ONNX file, by name; that it takes the rest is not proven by it.

    Args:
        file: The ONNX file.

    Returns:
        Operators that are not in its list, sorted, and sentences on shapes and limits; empty if all is well.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(file, load_external_data=False).graph
    found = sorted({node.op_type for node in graph.node} - KNOWN)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != "TopK":
            continue
        if node.input[1] not in constants:
            found.append("TopK with a K that is computed")
        elif int(numpy_helper.to_array(constants[node.input[1]]).item()) > MOST_TOPK:
            found.append(f"TopK with a K above {MOST_TOPK}")
    if any(not side.HasField("dim_value") for value in graph.input for side in value.type.tensor_type.shape.dim):
        found.append("an input of any size, which needs optimization profiles; fixed_size=[height,width] has none")
    return found
