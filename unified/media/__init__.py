"""Reading and writing pictures (later sound and films), within limits. Knows no model."""
