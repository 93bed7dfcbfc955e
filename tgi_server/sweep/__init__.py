"""`--multirun` over measurements: points, repeats, the record that a second start resumes, and what came of it."""
