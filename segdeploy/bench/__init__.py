"""Latency and accuracy of every backend, side by side in one run, and the report of it."""
