"""Whole numbers of a few bits that checkpoints keep in int32: AWQ's, GPTQ's and compressed-tensors' spelling."""
