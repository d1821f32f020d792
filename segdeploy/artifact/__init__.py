"""An artifact: a folder with a model file and a manifest."""
