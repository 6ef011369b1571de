"""How far out of focus a field, or a part of it, is."""
