"""Benchmarks: `python -m benchmarks` prints them, writes benchmarks/results/ and draws a chart."""
