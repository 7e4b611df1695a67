"""What each part of a system brings, measured on generated data with known truth; see docs/experiments.md."""
