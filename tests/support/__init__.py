"""What the tests of all folders share; ``pythonpath`` in pyproject.toml makes it importable as ``support``."""
