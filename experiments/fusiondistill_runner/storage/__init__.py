"""Where results live and how they are committed: the store, its lease, epochs of unfinished trainings, noted plans."""
