"""segdeploy: from a trained segmentation checkpoint to a proven deployment."""

__version__ = "0.1.0"
__all__ = ["__version__"]
