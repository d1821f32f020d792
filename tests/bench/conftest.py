"""The tiny model, the data set and the reports that the benchmark's tests share with those of its command."""

from support.bench import data_root, foreign_engine, report, row, samples, tiny_artifact

__all__ = ["data_root", "foreign_engine", "report", "row", "samples", "tiny_artifact"]
