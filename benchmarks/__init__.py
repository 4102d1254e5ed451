"""Scripts that measure and print tables; run each with `python -m benchmarks.NAME`."""
