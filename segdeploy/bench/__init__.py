"""How fast and how good each backend is, measured side by side on this machine."""
