"""Running a model: one Session a backend, all of the same shape, and what is built on any of them."""

from segdeploy.runtime.open import open_session
from segdeploy.runtime.session import Prediction, Session, Staged

__all__ = ["Prediction", "Session", "Staged", "open_session"]
