"""Models of no family here: transformers' own module computes them, with attention over our paged cache.

`spec.py` is what the launcher knows of such a model (stdlib only), `probe.py` how that is found out, `model.py` what
the shard runs.
"""
