"""What runs next and where: the scheduling rules, the driver and queue that carry them out, the workers' loops."""
