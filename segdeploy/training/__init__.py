"""From a data set to a checkpoint, through MMEngine and mmseg. Knows nothing of artifacts."""
