"""What a method asks of the data, and what the data say; imports nothing heavy, so that help is quick."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Needs:
    """What a training batch holds.

    Attributes:
        domains: the keys of its images, each (N, C, H, W) in [-1, 1].
        paired: whether image n of one domain shows the same thing as image n of the others.
        labels: whether it also holds "label", (N,) int64, the index of each image's class.
        balanced: whether classes take turns, so that a batch of enough images holds each of them.
        unlabelled: whether the label of an image may be unknown, -1; images with a label then take every other turn.
        vectors: whether "label" may be a vector per image in place of classes, (N, length) float32.
    """

    domains: tuple[str, ...] = ("image",)
    paired: bool = False
    labels: bool = False
    balanced: bool = False
    unlabelled: bool = False
    vectors: bool = False


@dataclass(frozen=True)
class Facts:
    """What the data say. With the config, all that networks are built from; both are stored in the model file.

    Attributes:
        size: height and width of the training images, in pixels; 0 if unknown.
        channels: of the images of each domain.
        classes: names of the labels, in the order of their indices.
        vector: length of the vectors that stand in place of labels; 0 without.
    """

    size: int = 0
    channels: dict[str, int] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    vector: int = 0
