"""Confusion matrices, evaluation reports and their comparison."""
