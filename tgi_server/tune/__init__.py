"""`job=tune`: the configuration that serves a traffic best within limits."""
