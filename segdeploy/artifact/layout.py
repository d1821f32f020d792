"""How the data sets of a model's config are laid out on disk, and what the values of their label maps mean."""

from __future__ import annotations

from segdeploy.base.records import Struct


class Labelling(Struct, frozen=True):
    """From the values in a label map's file to classes, as mmseg's LoadAnnotations does it.

    Attributes:
        reduce_zero_label: first, 0 becomes void (255) and the others move down by one.
        label_map: then, (value, class) of the values that are another class; all are replaced at once.
    """

    reduce_zero_label: bool = False
    label_map: tuple[tuple[int, int], ...] = ()


class Layout(Struct, frozen=True):
    """One data set of a config. Paths are relative to its root, so that the same data set is found at another.

    Attributes:
        split: ``train``, ``val`` or ``test``, as the config's loaders are called; of a folder any name.
        root: its folder.
        images: the folder of its images.
        labels: the folder of its label maps; None where it has none.
        image_suffix: what the name of an image ends in; None for whatever is a picture.
        label_suffix: what stands in its place in the name of its label map.
        names: a file with a name a line, without suffix; None for all images of the folder and the folders in it.
        indices: which of them: so many from the front (from the end, where negative), or these; None for all.
        labelling: of its label maps; None where only a model can say it.
    """

    split: str
    root: str
    images: str
    labels: str | None
    image_suffix: str | None = None
    label_suffix: str = ".png"
    names: str | None = None
    indices: int | tuple[int, ...] | None = None
    labelling: Labelling | None = None
