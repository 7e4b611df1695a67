"""Bounds of option values: one wording for all of them."""


def require(name: str, value: float, expected: str, fits: bool) -> None:
    """Raise a ValueError that names the option, unless it fits."""
    if not fits:
        raise ValueError(f"{name}: expected {expected}, got {value!r}")
