"""What a plan will cost, from the times of stored stages and simulated clusters."""
