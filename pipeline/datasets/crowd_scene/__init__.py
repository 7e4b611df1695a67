"""Drawing of synthetic crowds: persons, backdrops and scenes with exact visible masks."""
