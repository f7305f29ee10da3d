"""What a worker does with one stage: train, merge, evaluate, import. No Ray."""
