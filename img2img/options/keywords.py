"""Options of functions, for type checkers: generated from the dataclasses by `python tests/test_types.py`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from numpy.typing import NDArray
from torch import Tensor

Images = str | Path | NDArray[Any] | Tensor | Sequence[Any]  # a folder, or arrays
TranslationMethod = Literal[
    "cyclegan", "pix2pix", "discogan", "dualgan", "cut", "fastcut", "bicyclegan", "icgan", "stargan", "local"
]
SamplingMethod = Literal[
    "gan",
    "dcgan",
    "wgan",
    "wgan_gp",
    "cgan",
    "ebgan",
    "began",
    "unrolled",
    "lapgan",
    "progan",
    "acgan",
    "infogan",
    "semigan",
    "sagan",
    "biggan",
    "stackgan",
]


class Scoring(TypedDict, total=False):
    features: str
    features_weights: str | None
    lpips_net: str
    lpips_weights: str | None
    palette: str | None
    subsets: int
    subset_size: int
    neighbours: int


class Loading(TypedDict, total=False):
    direction: str | None
    device: str
    precision: str
    label: str | None
    backend: str


class AnyTraining(Scoring, total=False):
    out: str | Path | None
    resume: bool
    overwrite: bool
    quiet: bool
    channel_axis: int | None
    callbacks: Sequence[Any]
    data: Images | None
    size: int
    augment: str
    val_fraction: float
    cache_mb: int
    pages: str
    region_size: int
    regions: int
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
    track: str
    tensorboard: bool
    init: str | Path | None
    init_only: str | None
    objective: str
    penalty: str
    lambda_gp: float
    spectral: bool
    weight_norm: bool
    d_dropout: float
    smooth: float
    instance_noise: float
    diffaugment: str
    d_lr: float
    width: int
    d_width: int
    norm: str
    lr: float
    beta1: float
    decay: float
    weight_clip: float
    n_critic: int
    latent: int
    lambda_kl: float
    labels: str | None
    network: str | Callable[..., Any]
    noise: str
    depth: int
    d_norm: str
    beta2: float
    blocks: int


class OnlyTranslation(TypedDict, total=False):
    a: Images | None
    b: Images | None
    ab: str | Path | None
    direction: str
    generator: str | Callable[..., Any]
    discriminator: str | Callable[..., Any]
    padding: str
    dropout: float
    upsample: str
    lambda_feature: float
    lambda_perceptual: float
    perceptual: str
    perceptual_weights: str | None
    lambda_cycle: float
    distance: str
    lambda_identity: float
    pool: int
    lambda_l1: float
    lambda_nce: float
    flip: bool
    places: int
    head_width: int
    temperature: float
    e_width: int
    lambda_latent: float
    e_lr: float
    e_share: float
    lambda_rec: float
    d_layers: int
    lambda_cls: float
    lambda_variance: float
    reference: str
    max_change: float
    lambda_mean: float
    lambda_edit: float


class OnlySampling(TypedDict, total=False):
    clamp: float
    clamp_low: float
    clamp_high: float
    pack: int
    warm_up: bool
    code: int
    margin: float
    lambda_pt: float
    gamma: float
    lambda_k: float
    unroll: int
    unroll_rule: str
    unroll_lr: float
    levels: int
    coarse_width: int
    growing: float
    area: int
    lambda_drift: float
    lambda_class: float
    codes: int
    continuous: int
    lambda_info: float
    labelled: int
    match_features: bool
    lambda_game: float
    attention: int
    embedding: int
    lambda_ortho: float
    deep: bool
    vectors: str | None
    first_stage: float


class TranslationTraining(AnyTraining, OnlyTranslation): ...


class SamplingTraining(AnyTraining, OnlySampling): ...


class Training(AnyTraining, OnlyTranslation, OnlySampling): ...


class AnyTranslating(TypedDict, total=False):
    batch_size: int
    tile: str | int
    tile_memory: float
    ensemble: bool
    channels: str
    nan: str


class Calling(AnyTranslating, total=False):
    label: str | None
    channel_axis: int | None


class Spreading(TypedDict, total=False):
    ray: str | None
    ray_workers: int
    ray_cpus: int
    ray_gpus: float


class Translating(AnyTranslating, Loading, Spreading, total=False):
    format: str | None
    quality: int
    pages: str | None
    max_megapixels: float
    overwrite: bool
    report: str | Path | None
    files: Path | None
    shard: str | None
    n_outputs: int
    seed: int
    statistics: int
    skip_empty: bool


class Sampling(Spreading, total=False):
    device: str
    precision: str
    label: str | None
    vectors: str | None
    truncation: float
    seed: int
    batch_size: int
    format: str
    grid: bool
    interpolate: int
    overwrite: bool
    shard: str | None


class Classifying(TypedDict, total=False):
    device: str


class Distilling(TypedDict, total=False):
    images: str | None
    direction: str | None
    pairs: int
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
    track: str
    tensorboard: bool
    objective: str
    penalty: str
    lambda_gp: float
    spectral: bool
    weight_norm: bool
    d_dropout: float
    smooth: float
    instance_noise: float
    diffaugment: str
    d_lr: float
    generator: str | Callable[..., Any]
    discriminator: str | Callable[..., Any]
    width: int
    d_width: int
    norm: str
    padding: str
    dropout: float
    upsample: str
    lr: float
    beta1: float
    decay: float
    lambda_feature: float
    lambda_perceptual: float
    perceptual: str
    perceptual_weights: str | None
    lambda_l1: float
    features: str
    features_weights: str | None
    lpips_net: str
    lpips_weights: str | None
    palette: str | None
    subsets: int
    subset_size: int
    neighbours: int


class Evaluating(Scoring, Loading, total=False):
    a: Images | None
    b: Images | None
    ab: str | Path | None
    real: str | Path | None
    fake: str | Path | None
    paired: bool
    size: int
    limit: int
    pages: str | None
    judge: str | Path | None
    cache: str | Path | None
    shard: str | None
    labels: str | None
