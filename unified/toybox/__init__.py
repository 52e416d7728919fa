"""The embedded world: exact scenes and the words for them. Knows nothing about tokens or models."""
