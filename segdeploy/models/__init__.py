"""From a checkpoint and its config to an mmseg model."""
