"""Seeded scenes of textured shapes of several classes that touch and hide each other, with exact masks."""
