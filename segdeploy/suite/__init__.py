"""A whole table of a benchmark by one command: every export of a model that this machine can make, measured in turns."""
