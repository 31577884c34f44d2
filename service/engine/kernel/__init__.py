"""The step of a network in bytes as a C library of our own; where there is none, ONNX Runtime runs the graphs."""
