"""The options of metrics."""

from dataclasses import dataclass
from typing import Annotated

from img2img.options.declared import Choice, Options, Within


@dataclass(frozen=True)
class MetricOptions(Options):
    """Networks, weights and sizes of the metrics; the defaults are those of the papers and their reference code."""

    features: Annotated[
        str,
        "Network of features for FID, KID etc.: inception, inception_clean (resized with antialiasing, as in "
        "clean-fid), encoder (fitted to the real images; any channels), a torchvision classifier, or a .pt "
        "(TorchScript), .pt2 or .onnx file, which is a program that you must trust.",
        Choice(("inception", "inception_clean", "encoder"), complete=False),
    ] = "encoder"
    features_weights: Annotated[
        str | None,
        "File with the weights of Inception or the classifier; by default torch's cache. Nothing is downloaded.",
    ] = None
    lpips_net: Annotated[str, "Backbone of LPIPS: alex, vgg or squeeze.", Choice(("alex", "vgg", "squeeze"))] = "alex"
    lpips_weights: Annotated[
        str | None, "File with torchvision's weights of that backbone; by default torch's cache. Nothing is downloaded."
    ] = None
    palette: Annotated[
        str | None,
        "File with the colours of label maps, one per line: 'r g b' from 0 to 255, or '#rrggbb'; by default the "
        "distinct colours of the real images.",
    ] = None
    subsets: Annotated[int, "Random subsets that KID is averaged over.", Within(1, 10**5)] = 100
    subset_size: Annotated[int, "Images in each of KID's subsets.", Within(2, 10**6)] = 1000
    neighbours: Annotated[int, "The k of precision, recall, density and coverage.", Within(1, 10**5)] = 5
