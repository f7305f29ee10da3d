"""The search over the distillation recipe: its candidates, the Ray Tune job that trains them, and what comes of it."""
