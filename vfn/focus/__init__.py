"""Distance from focus of fields and of parts of fields."""
