"""The Inception network that FID, KID and the inception score are named after, by torch-fidelity (an extra).

It is the network of the TensorFlow graph of 2015-12-05: other Inception weights, or another way of resizing to its 299
px, give other values. Its own resizing, bilinear without antialiasing, is that of torch-fidelity and of the mode
"legacy_tensorflow" of clean-fid; it skips pixels of large images. That of clean-fid's mode "clean" (Parmar et al. 2022)
is bicubic with antialiasing, each channel in floats, without rounding to 8 bits again.
"""

import importlib
import importlib.util
import io
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img2img.errors import ConfigError, install_hint
from img2img.metrics.network import Extract
from img2img.metrics.resampling import own_randomness
from img2img.runtime.weights import find_weights, misfit, read_weights

LAYERS = ["2048", "logits_unbiased"]
SIDE = 299


def antialiased(pixels: Tensor) -> Tensor:
    """Resize pixels (N, 3, H, W) of 0 to 255 to (N, 3, 299, 299) floats as clean-fid's mode "clean" does."""
    small = F.interpolate(pixels.float(), (SIDE, SIDE), mode="bicubic", antialias=True, align_corners=False)
    return small.clamp(0, 255)  # bicubic overshoots


# Name -> suffix of its metrics, resizing of the pixels (None: by the network itself), and a note on its values.
NETWORKS: dict[str, tuple[str, Callable[[Tensor], Tensor] | None, str]] = {
    "inception": (
        "",
        None,
        "images are resized to 299 px without antialiasing, as by torch-fidelity and clean-fid's legacy_tensorflow; "
        "for clean-fid's default, clean, use --features inception_clean",
    ),
    "inception_clean": (
        "[inception_clean]",
        antialiased,
        "images are resized to 299 px with antialiasing, as by clean-fid's default, clean",
    ),
}


def open_inception(
    weights: str | None, channels: int, device: torch.device, resize: Callable[[Tensor], Tensor] | None = None
) -> tuple[Extract, Path]:
    """Return a function that gives what FID and IS use, and the file of its weights.

    These are the pooled features (N, 2048) and unbiased logits (N, 1008).
    `resize` brings pixels of 0 to 255 to the size of the network; None leaves that to the network.

    Raises:
        ConfigError: if the images are not RGB, or torch-fidelity is not installed.
        ModelFileError: if the weights are not on this machine, or belong to another network.
    """
    if channels != 3:
        raise ConfigError(
            f"Inception takes RGB images, and these have {channels} channels: use --features encoder, whose KID "
            "compares models on one data set, but not with published values."
        )
    if importlib.util.find_spec("torch_fidelity") is None:
        raise ConfigError(install_hint("Inception", "torch-fidelity", "metrics") + " Or use --features encoder.")
    library = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    url, option = library.URL_INCEPTION_V3, "--features-weights"
    path = find_weights("Inception", weights, url, option, ", or use --features encoder, which needs none")
    # The library unpickles its file, which may run code: it gets tensors that were read safely and written again here.
    file = io.BytesIO()
    torch.save(read_weights(path), file)
    file.seek(0)
    try:
        with own_randomness():
            network: nn.Module = library.FeatureExtractorInceptionV3("inception", LAYERS, file)
    except RuntimeError as error:
        raise misfit(path, "torch-fidelity's Inception") from error
    network.to(device)
    first: list[Tensor] = []
    if resize is not None:  # the library takes 8 bits and resizes: its first layer gets our floats instead
        network.get_submodule("Conv2d_1a_3x3").register_forward_pre_hook(lambda *_: (first.pop(),))

    def extract(images: Tensor) -> tuple[Tensor, Tensor | None]:
        pixels = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        if resize is not None:
            first.append((resize(pixels) - 128) / 128)
            pixels = pixels.new_zeros(len(pixels), 3, SIDE, SIDE)
        features, logits = network(pixels)
        return features, logits

    return extract, path
