"""One file a backend, and what several of them share."""
