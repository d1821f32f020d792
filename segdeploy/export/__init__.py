"""From a checkpoint to an Artifact, and the proof that both are the same model."""
