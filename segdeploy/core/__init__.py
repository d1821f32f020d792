"""What everything else stands on: the artifact, errors, checkpoints, imaging, metrics, data sets. Imports no other layer."""
