"""The whole way on synthetic data."""
