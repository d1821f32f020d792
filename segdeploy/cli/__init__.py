"""The command line: one file a command, which parses, calls one function, and prints."""
