"""Tables and the report of a store, rebuilt from what its stages committed."""
