"""GGUF files become model directories (safetensors, tokenizer.json, config.json), once, in a cache."""
