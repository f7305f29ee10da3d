"""Views of a store, rebuilt from committed stages alone: results, paired tests, reports, what a run is at."""
