"""How a run is shown while it goes on: on the terminal, in the store, in trackers."""
