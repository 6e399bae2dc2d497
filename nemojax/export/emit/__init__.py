"""From a traced network's equations to ONNX nodes: one short file of rules per group of primitives."""
