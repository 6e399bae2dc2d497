"""Names of the primitives that trace knows, by what they do to data."""

VIEWS = frozenset({
    "reshape", "squeeze", "expand_dims", "broadcast_in_dim", "convert_element_type", "copy", "copy_p",
    "stop_gradient", "name", "sharding_constraint", "bitcast_convert_type", "reduce_precision",
    "pvary",
})  # fmt: skip

# What affine steps, activation functions and residual adds are made of in networks for quantization.
ARITHMETIC = frozenset({"add", "sub", "mul", "div"})
ACTIVATIONS = frozenset({"max", "min", "clamp", "tanh", "logistic"})

ELEMENTWISE = ARITHMETIC | ACTIVATIONS | frozenset({
    "neg", "sign", "abs", "floor", "ceil", "round", "exp", "exp2", "expm1", "log", "log1p", "sqrt", "rsqrt",
    "cbrt", "sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "asinh", "acosh", "atanh",
    "erf", "erfc", "erf_inv", "lgamma", "digamma", "square", "pow", "integer_pow", "rem", "nextafter",
    "add_any", "is_finite", "not", "and", "or", "xor", "shift_left", "shift_right_logical",
    "shift_right_arithmetic", "eq", "ne", "lt", "le", "gt", "ge", "eq_to", "lt_to", "le_to", "select_n",
    "population_count", "clz", "real", "imag", "conj",
})  # fmt: skip

REDUCTIONS = frozenset({
    "reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "reduce_xor",
    "argmax", "argmin",
})  # fmt: skip

WINDOWS = frozenset({"reduce_window_max", "reduce_window_min", "reduce_window_sum", "reduce_window"})

CONTRACTIONS = frozenset({"conv_general_dilated", "dot_general"})

# Elements are moved, none is computed.
LAYOUT = frozenset({
    "transpose", "concatenate", "pad", "slice", "split", "dynamic_slice", "dynamic_update_slice", "rev",
    "tile", "broadcast_in_dim",
})  # fmt: skip

SCATTERS = frozenset({"scatter", "scatter-add", "scatter-mul", "scatter-min", "scatter-max"})

# Of these an operand's elements are read only as far as they come out.
PARTIAL = frozenset({"slice", "dynamic_slice", "gather"})

# What comes out was among the operands, so it needs no quantizer of its own.
CHOOSING = LAYOUT | frozenset(
    {"reduce_window_max", "reduce_window_min", "reduce_max", "reduce_min", "gather"}
)
