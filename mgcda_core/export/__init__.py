"""From weights to what a runtime opens: ONNX, TensorRT engines, and the gate that compares them with PyTorch."""
