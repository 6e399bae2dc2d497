"""Which ONNX operators from_onnx knows, by what they do to data."""

from ..workload import Kind

VIEWS = frozenset({
    "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Cast", "CastLike", "Dropout", "Expand",
    "QuantizeLinear", "DequantizeLinear",
})  # fmt: skip

ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "Sum", "Pow", "Max", "Min", "Mean"})

UNARY = frozenset({
    "Relu", "Clip", "Sigmoid", "Tanh", "LeakyRelu", "PRelu", "Elu", "Celu", "Selu", "ThresholdedRelu",
    "HardSigmoid", "HardSwish", "Swish", "Mish", "Gelu", "FastGelu", "QuickGelu", "Erf", "Softplus",
    "Softsign", "Exp", "Log", "Sqrt", "Reciprocal", "Abs", "Neg", "Sign", "Floor", "Ceil", "Round", "Not",
    "Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh", "Shrink",
    "IsNaN", "IsInf", "BitwiseNot",
})  # fmt: skip

SEVERAL = frozenset({
    "Where", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Xor", "Mod",
    "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitShift", "CumSum",
})  # fmt: skip

REDUCTIONS = frozenset({
    "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
    "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare", "ArgMax", "ArgMin",
})  # fmt: skip

POOLING = frozenset({"MaxPool", "AveragePool", "LpPool"})
GLOBAL_POOLING = frozenset({"GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"})

# Where the activation, the weight and the bias stand among the inputs.
CONVOLUTIONS = {
    "Conv": (0, 1, 2),
    "ConvTranspose": (0, 1, 2),
    "ConvInteger": (0, 1, -1),
    "QLinearConv": (0, 3, 8),
}
PRODUCTS = {"MatMul": (0, 1, -1), "Gemm": (0, 1, 2), "MatMulInteger": (0, 1, -1), "QLinearMatMul": (0, 3, -1)}

NORMS = frozenset({
    "LRN", "LayerNormalization", "GroupNormalization", "InstanceNormalization", "RMSNormalization",
    "SimplifiedLayerNormalization", "MeanVarianceNormalization", "LpNormalization", "SkipLayerNormalization",
})  # fmt: skip
SOFTMAX = frozenset({"Softmax", "LogSoftmax", "Hardmax"})

LAYOUT = frozenset({
    "Transpose", "Concat", "Split", "Slice", "Pad", "Tile", "DepthToSpace", "SpaceToDepth", "ReverseSequence",
    "CenterCropPad", "Trilu",
})  # fmt: skip
RESAMPLING = frozenset({"Resize", "Upsample", "GridSample", "RoiAlign", "MaxRoiPool", "MaxUnpool"})
GATHERS = frozenset({"Gather", "GatherElements", "GatherND"})

KNOWN = (
    VIEWS | ARITHMETIC | UNARY | SEVERAL | REDUCTIONS | POOLING | GLOBAL_POOLING | set(CONVOLUTIONS)
    | set(PRODUCTS) | {"Einsum", "BatchNormalization"} | NORMS | SOFTMAX | LAYOUT | RESAMPLING | GATHERS
)  # fmt: skip

# Of these only the elements that come out are read.
PARTIAL = GATHERS | {"Slice"}

KIND_OF_SEVERAL: dict[str, Kind] = {"Add": "add", "Sub": "add", "Sum": "add", "Mean": "add"}
