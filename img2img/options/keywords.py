"""Options of functions, for type checkers: generated from the dataclasses by `python tests/test_types.py`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from numpy.typing import NDArray
from torch import Tensor

Images = str | Path | NDArray[Any] | Tensor | Sequence[Any]  # a folder, or arrays
TranslationMethod = Literal["cyclegan", "pix2pix", "discogan", "stargan", "local"]
SamplingMethod = Literal["gan", "dcgan", "wgan", "wgan_gp", "cgan"]


class TranslationTraining(TypedDict, total=False):
    out: str | Path | None
    resume: bool
    overwrite: bool
    quiet: bool
    channel_axis: int | None
    a: Images | None
    b: Images | None
    ab: str | Path | None
    data: Images | None
    direction: str
    size: int
    augment: str
    val_fraction: float
    cache_mb: int
    steps: int
    epochs: int
    batch_size: int
    accumulate: int
    clip: float
    ema: float
    seed: int
    deterministic: bool
    device: str
    precision: str
    compile: str
    checkpoint_activations: bool
    workers: int
    log_every: int
    sample_every: int
    validate_every: int
    metrics: str
    select: str
    patience: int
    keep: int
    save_every: int
    tensorboard: bool
    objective: str
    penalty: str
    lambda_gp: float
    spectral: bool
    smooth: float
    instance_noise: float
    diffaugment: str
    d_lr: float
    generator: str
    discriminator: str
    width: int
    d_width: int
    norm: str
    padding: str
    dropout: float
    upsample: str
    lr: float
    beta1: float
    decay: float
    lambda_cycle: float
    lambda_identity: float
    pool: int
    features: str
    features_weights: str | None
    lpips_net: str
    lpips_weights: str | None
    palette: str | None
    subsets: int
    subset_size: int
    neighbours: int
    lambda_l1: float
    labels: str | None
    blocks: int
    d_layers: int
    n_critic: int
    lambda_cls: float
    lambda_rec: float
    lambda_variance: float
    reference: str
    max_change: float
    lambda_mean: float
    lambda_edit: float


class SamplingTraining(TypedDict, total=False):
    out: str | Path | None
    resume: bool
    overwrite: bool
    quiet: bool
    channel_axis: int | None
    data: Images | None
    size: int
    augment: str
    val_fraction: float
    cache_mb: int
    steps: int
    epochs: int
    batch_size: int
    accumulate: int
    clip: float
    ema: float
    seed: int
    deterministic: bool
    device: str
    precision: str
    compile: str
    checkpoint_activations: bool
    workers: int
    log_every: int
    sample_every: int
    validate_every: int
    metrics: str
    select: str
    patience: int
    keep: int
    save_every: int
    tensorboard: bool
    objective: str
    penalty: str
    lambda_gp: float
    spectral: bool
    smooth: float
    instance_noise: float
    diffaugment: str
    d_lr: float
    network: str
    latent: int
    noise: str
    width: int
    d_width: int
    depth: int
    norm: str
    d_norm: str
    n_critic: int
    lr: float
    beta1: float
    beta2: float
    decay: float
    features: str
    features_weights: str | None
    lpips_net: str
    lpips_weights: str | None
    palette: str | None
    subsets: int
    subset_size: int
    neighbours: int
    weight_clip: float
    warm_up: bool
    labels: str | None


class Training(TypedDict, total=False):
    out: str | Path | None
    resume: bool
    overwrite: bool
    quiet: bool
    channel_axis: int | None
    a: Images | None
    b: Images | None
    ab: str | Path | None
    data: Images | None
    direction: str
    size: int
    augment: str
    val_fraction: float
    cache_mb: int
    steps: int
    epochs: int
    batch_size: int
    accumulate: int
    clip: float
    ema: float
    seed: int
    deterministic: bool
    device: str
    precision: str
    compile: str
    checkpoint_activations: bool
    workers: int
    log_every: int
    sample_every: int
    validate_every: int
    metrics: str
    select: str
    patience: int
    keep: int
    save_every: int
    tensorboard: bool
    objective: str
    penalty: str
    lambda_gp: float
    spectral: bool
    smooth: float
    instance_noise: float
    diffaugment: str
    d_lr: float
    generator: str
    discriminator: str
    width: int
    d_width: int
    norm: str
    padding: str
    dropout: float
    upsample: str
    lr: float
    beta1: float
    decay: float
    lambda_cycle: float
    lambda_identity: float
    pool: int
    features: str
    features_weights: str | None
    lpips_net: str
    lpips_weights: str | None
    palette: str | None
    subsets: int
    subset_size: int
    neighbours: int
    lambda_l1: float
    labels: str | None
    blocks: int
    d_layers: int
    n_critic: int
    lambda_cls: float
    lambda_rec: float
    lambda_variance: float
    reference: str
    max_change: float
    lambda_mean: float
    lambda_edit: float
    network: str
    latent: int
    noise: str
    depth: int
    d_norm: str
    beta2: float
    weight_clip: float
    warm_up: bool


class Loading(TypedDict, total=False):
    direction: str | None
    device: str
    precision: str
    label: str | None
    backend: str


class Translating(TypedDict, total=False):
    direction: str | None
    device: str
    precision: str
    label: str | None
    backend: str
    batch_size: int
    tile: str | int
    tile_memory: float
    ensemble: bool
    channels: str
    format: str | None
    quality: int
    pages: str
    max_megapixels: float
    overwrite: bool
    report: str | Path | None


class Calling(TypedDict, total=False):
    label: str | None
    channel_axis: int | None
    batch_size: int
    tile: str | int
    tile_memory: float
    ensemble: bool
    channels: str


class Sampling(TypedDict, total=False):
    device: str
    precision: str
    label: str | None
    seed: int
    batch_size: int
    format: str
    grid: bool
    interpolate: int
    overwrite: bool


class Evaluating(TypedDict, total=False):
    a: Images | None
    b: Images | None
    ab: str | Path | None
    real: str | Path | None
    fake: str | Path | None
    paired: bool
    size: int
    limit: int
    judge: str | Path | None
    labels: str | None
    features: str
    features_weights: str | None
    lpips_net: str
    lpips_weights: str | None
    palette: str | None
    subsets: int
    subset_size: int
    neighbours: int
    direction: str | None
    device: str
    precision: str
    label: str | None
    backend: str
