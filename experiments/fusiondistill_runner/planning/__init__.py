"""What is to be done, as values: stages, plans, rows of the table, search spaces. No torch, no Ray, no file."""
