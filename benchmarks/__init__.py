"""Speed and memory, measured side by side with plain references. ``python -m benchmarks`` runs all of them."""
