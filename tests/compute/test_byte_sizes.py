import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.compute.byte_sizes import parse_bytes, show_bytes
from pipeline.errors import PipelineError


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("1024", 1024),
        ("17 B", 17),
        ("17bytes", 17),
        ("5GiB", 5 * 1024**3),
        (" 5 gib ", 5 * 1024**3),
        ("5G", 5 * 1024**3),
        ("5Gi", 5 * 1024**3),
        ("5GB", 5_000_000_000),
        ("1.5k", 1536),
        ("0.1KiB", 102),
        ("2T", 2 * 1024**4),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, size_bytes: int) -> None:
    assert parse_bytes(text, name="--limit") == size_bytes


@pytest.mark.parametrize("text", ["", "much", "-5GiB", "5 XiB", "5iB", "1,5GiB", "GiB", "nan", "1e9", "5 G B", "٥"])
def test_nonsense_is_told_kindly(text: str) -> None:
    with pytest.raises(PipelineError, match=r"^--limit: .* is not a size; expected .* such as 5GiB, 500MB or 0$"):
        parse_bytes(text, name="--limit")


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (150 * 1024, "150 KiB"),
        (1024**2 - 1, "1 MiB"),
        (10 * 1024**3, "10 GiB"),
        (3 * 1024**6, "3072 PiB"),
    ],
)
def test_sizes_are_shown_short(size_bytes: int, text: str) -> None:
    assert show_bytes(size_bytes) == text


@given(st.integers(0, 2**60))
def test_what_is_shown_can_be_read(size_bytes: int) -> None:
    assert parse_bytes(show_bytes(size_bytes), name="x") == pytest.approx(size_bytes, rel=0.051)
