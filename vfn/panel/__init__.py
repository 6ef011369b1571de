"""Training of every input set and target of a user's channels under one budget."""
