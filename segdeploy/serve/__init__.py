"""An Artifact behind TorchServe: the archive, the handler, the server and its client."""
