"""Parameters of a network as its authors count them."""

from ..workload import Workload


def parameters(work: Workload) -> int:
    """Trainable parameters before folding: weights (tied ones once) and biases, scales and shifts.

    A folded bias of a convolution stands for the two vectors of a batch norm. That holds for the networks of
    this package; a convolution with a bias and without a batch norm is counted with one vector too many.
    """
    weights = sum(op.w_elems for i, op in enumerate(work.operations) if op.w_id == i)
    vectors = sum(op.bias_elems * (2 if op.kind in ("conv", "dwconv") else 1) for op in work.operations)
    return weights + vectors
