"""Who runs next: the driver, its queue, the workers that pull from it, and how a run is interrupted."""
