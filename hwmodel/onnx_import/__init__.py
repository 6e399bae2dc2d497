"""From an ONNX file to its workload graph."""
