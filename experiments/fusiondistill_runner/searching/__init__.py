"""The search for a better recipe: which candidates are tried, where they are noted, which one wins."""
