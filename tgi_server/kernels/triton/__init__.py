"""GPU kernels written in Triton, one file a kernel family; `rows` says which operations they compute.

Each has a launcher that takes tensors: contiguous, on one device, in bfloat16, float16 or float32 unless it says
otherwise. No launch depends on a value that is on the device, so that all of them can be captured in CUDA graphs.
Only `rows` and this file can be imported without the package triton.
"""
