"""How far a predicted stain is from the real one: pixel fidelity and tolerance level."""
