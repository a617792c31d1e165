"""The Inception network that FID, KID and the inception score are named after, by torch-fidelity (an extra).

It is the network of the TensorFlow graph of 2015-12-05, with its resizing: other Inception weights, or another way of
resizing, give other numbers.
"""

import importlib
import importlib.util
import io

import torch
from torch import Tensor, nn

from img2img.errors import ConfigError, needs
from img2img.metrics.features import Run
from img2img.metrics.resampling import own_randomness
from img2img.metrics.weights import find_weights, misfit, read_weights

LAYERS = ["2048", "logits_unbiased"]


def open_inception(weights: str | None, channels: int, device: torch.device) -> Run:
    """Features of the last pooling (N, 2048) and logits without their bias (N, 1008), as FID and IS use them.

    Raises:
        ConfigError: if the images are not RGB, or torch-fidelity is not installed.
        ModelFileError: if the weights are not on this machine, or not Inception's.
    """
    if channels != 3:
        raise ConfigError(
            f"Inception sees RGB, and the images have {channels} channels: use --features encoder, whose KID is no "
            "published one but compares models of one data set."
        )
    if importlib.util.find_spec("torch_fidelity") is None:
        raise ConfigError(needs("Inception", "torch-fidelity", "metrics") + " Or use --features encoder.")
    library = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    url, option = library.URL_INCEPTION_V3, "--features-weights"
    path = find_weights("Inception", weights, url, option, ", or use --features encoder, which needs none")
    # The library unpickles its file, which may run code: it gets tensors read safely, written again by ourselves.
    file = io.BytesIO()
    torch.save(read_weights(path), file)
    file.seek(0)
    try:
        with own_randomness():
            network: nn.Module = library.FeatureExtractorInceptionV3("inception", LAYERS, file)
    except RuntimeError as error:
        raise misfit(path, "torch-fidelity's Inception") from error
    network.to(device)

    def run(images: Tensor) -> tuple[Tensor, Tensor | None]:
        pixels = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        features, logits = network(pixels)
        return features, logits

    return run
