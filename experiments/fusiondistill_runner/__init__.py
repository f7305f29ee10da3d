"""The experiment runner: plans, stores and drives the method of :mod:`fusiondistill` on Ray."""
