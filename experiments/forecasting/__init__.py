"""What a plan will cost: estimates from measured stages, and its schedule on other clusters."""
