"""The choices that some metrics leave open."""

from dataclasses import dataclass
from typing import Annotated

from img2img.options.declared import Choice, Options, Within


@dataclass(frozen=True)
class MetricOptions(Options):
    """Networks, weights and sizes of the metrics; the defaults are those of the papers and their reference code."""

    features: Annotated[
        str,
        "What FID, KID and the like compare: inception, inception_clean (resized with antialiasing, as by clean-fid), "
        "encoder (fitted to the real images; any channels), a classifier of torchvision, or a .pt (TorchScript), .pt2 "
        "or .onnx file: a program, which you must trust.",
        Choice(("inception", "inception_clean", "encoder"), complete=False),
    ] = "encoder"
    features_weights: Annotated[
        str | None, "File of weights of Inception or the classifier; else torch's cache; nothing is downloaded."
    ] = None
    lpips_net: Annotated[str, "Backbone of LPIPS: alex, vgg or squeeze.", Choice(("alex", "vgg", "squeeze"))] = "alex"
    lpips_weights: Annotated[
        str | None, "File of torchvision's weights of that backbone; else torch's cache; nothing is downloaded."
    ] = None
    palette: Annotated[
        str | None,
        "File of the colours of label maps, a line each: 'r g b' from 0 to 255, or '#rrggbb'; else the distinct "
        "colours of the real images.",
    ] = None
    subsets: Annotated[int, "Random subsets that KID is averaged over.", Within(1, 10**5)] = 100
    subset_size: Annotated[int, "Images in each of KID's subsets.", Within(2, 10**6)] = 1000
    neighbours: Annotated[int, "The k of precision, recall, density and coverage.", Within(1, 10**5)] = 5
