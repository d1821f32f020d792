"""Load: how a server, or a model in this process, answers many requests at once."""
