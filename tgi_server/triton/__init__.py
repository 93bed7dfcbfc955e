"""GPU kernels written in Triton, one file a kernel family.

Each has a launcher that takes tensors: contiguous, on one device, in one of `support.DTYPES` unless it says otherwise.
No launch depends on a value that is on the device, so that all of them can be captured in CUDA graphs.
"""
