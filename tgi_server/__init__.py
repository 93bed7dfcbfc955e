"""A text generation server with the interface of text-generation-inference."""

__version__ = "0.1.0"
