"""`BatchEqualizer`: images of several experimental batches, moved onto one of them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict, TypeVar, Unpack, overload

from sklearn import exceptions
from sklearn.base import BaseEstimator

from img2img.data.picture import Array
from img2img.errors import ConfigError, InputError, choose
from img2img.lab import options as o, store
from img2img.lab.arrays import unpack
from img2img.lab.checks import check_batch
from img2img.lab.curves.correction import Origin
from img2img.lab.design import Design, is_manifest
from img2img.lab.evaluating import judge
from img2img.lab.fitted import Fitted
from img2img.lab.judgement.judge import Evaluation
from img2img.lab.learning import check_parameters, learn, learn_batch
from img2img.lab.notes import LabWarning as LabWarning
from img2img.lab.transforming import transform_arrays, transform_files
from img2img.options.declared import arguments_of

if TYPE_CHECKING:
    import pandas as pd

    from img2img.lab.tables.manifest import Manifest


Kind = TypeVar("Kind")  # of images: the result is of the kind that was given


class NotFittedError(ConfigError, exceptions.NotFittedError):  # type: ignore[misc]
    """An equalizer was used before it was fitted."""


def _learned(name: str) -> Any:
    return property(lambda self: getattr(self.fitted_, name), doc=f"See `Fitted.{name}`.")


class _Options(TypedDict, total=False):
    """Options of `transform` for arrays."""

    nan: str
    origin: Sequence[Origin] | None


class BatchEqualizer(BaseEstimator):  # type: ignore[misc]
    """Move images of several batches onto one of them, and keep what differs within a batch.

    It follows scikit-learn's conventions: `fit` learns from images and the names of their batches, `transform` applies.
    Results have the kind, axes, size and type of the input; images of the target batch are returned bit for bit.
    Images are arrays, or a `Manifest`: the files that a table names.

    Args:
        model: "tone", a monotone curve per batch and channel; "tone+field", the same after a smooth illumination field;
            "stain", the amounts of two stains, for stained tissue in RGB of 8 bits; "local" and "local+field", tone or
            tone+field followed by a small bounded network, trained adversarially; "stargan", one generator for all
            batches; "cyclegan", for two batches. The networks make up pixel values: judge them by `img2img equalize
            report`.
        target: the batch that the others are moved to; "medoid", the one nearest to the others; or, for "tone" and
            "tone+field", "mean" of all.
        axes: axes of the images, one letter each: N images, C channels, Y rows, X columns. Lists have no N.
        channels: names of the channels, compared where `transform` is given names.
        max_change: largest change by "local", as a share of a channel's range.
        unseen: images of batches that were not fitted: "error", or "passthrough" to return them unchanged.
        out_dtype: "same", or "float32" for values that are neither rounded nor clipped.
        min_images: minimum number of images of a batch, and of its controls if there are any.
        max_images: maximum number of images of a batch that are used, spread evenly.
        allow_confounded: fit although labels and batches determine each other; reports are stamped.
        training: options for training the network, such as {"steps": 2000}.
        run: folder of that training, which resumes there after a stop; None for a temporary one.
        random_state: seed of everything random.
        device: device of the networks: "auto", "cpu", "cuda".
        n_jobs: threads for "tone" and "tone+field"; -1 uses one for each core.

    Attributes:
        batches_: names of the batches, sorted; those added later at the end.
        target_: the batch, or "mean".
        channels_: names of the channels, or None.
        scale_: low and high pixel value (C, 2) of the target batch, the unit of every share of the range.
        correction_: the curves and fields, or the stains.
        generator_: the network, or None.
        statistics_: means and quantiles of the batches, for the baselines in `evaluate`.
        sham_: mean change, as a share of the range, when the target batch alone is split at random and equalized.
        notes_: the warnings of the fit.
        n_images_: number of images used from each batch.
        fitted_: all of these and more, as one `Fitted`.
    """

    _fitted: Fitted | None = None

    def __init__(
        self,
        model: o.Model = "tone",
        target: str = "medoid",
        axes: str = o.ORDER,
        channels: Sequence[str] | None = None,
        max_change: o.MaxChange = 0.10,
        unseen: o.Unseen = "error",
        out_dtype: str = "same",
        min_images: o.MinImages = 8,
        max_images: o.MaxImages = 200,
        allow_confounded: bool = False,
        training: Mapping[str, Any] | None = None,
        run: str | Path | None = None,
        random_state: o.Seed = 0,
        device: o.Device = "cpu",
        n_jobs: o.Jobs = 1,
    ) -> None:
        self.model, self.target, self.axes, self.channels = model, target, axes, channels
        self.max_change, self.unseen, self.out_dtype = max_change, unseen, out_dtype
        self.min_images, self.max_images, self.allow_confounded = min_images, max_images, allow_confounded
        self.training, self.run = training, run
        self.random_state, self.device, self.n_jobs = random_state, device, n_jobs

    batches_, target_, channels_ = _learned("batches"), _learned("target"), _learned("channels")
    scale_, correction_, generator_ = _learned("scale"), _learned("correction"), _learned("generator")
    statistics_, sham_, notes_ = _learned("statistics"), _learned("sham"), _learned("notes")
    n_images_ = _learned("n_images")

    @property
    def fitted_(self) -> Fitted:
        """Everything that `fit` learned.

        Raises:
            NotFittedError: before `fit`.
        """
        if self._fitted is None:
            raise NotFittedError("This equalizer is not fitted yet; call fit, or load a fitted one.")
        return self._fitted

    def __sklearn_is_fitted__(self) -> bool:
        return self._fitted is not None

    @property
    def _parameters(self) -> o.Parameters:
        return o.Parameters(**self.get_params(deep=False))

    def check_parameters(self) -> None:
        """Convert the parameters to their types.

        Raises:
            ConfigError: for a parameter that makes no sense; with its name and the values it can have.
        """
        for name, argument in arguments_of(BatchEqualizer.__init__).items():
            setattr(self, name, argument.convert(getattr(self, name)))
        check_parameters(self._parameters)

    def fit(
        self,
        X: "Manifest | Any",
        y: Any = None,
        *,
        batch: Any = None,
        control: Any = None,
        group: Any = None,
        label: Any = None,
    ) -> Self:
        """Learn what each batch needs.

        Args:
            X: images with the axes `axes`, of numpy, torch, xarray or dask; or a list of images; or a `Manifest`, which
                brings the other arguments itself.
            y: not used; part of scikit-learn's convention.
            batch: the batch of each image.
            control: whether each image is a control; if given, only controls are used.
            group: what images share besides the batch, such as a well, a donor or a source field.
            label: what must be kept, such as a treatment; only used to check that it differs from the batches.

        Raises:
            InputError: if the images or their description do not fit; the message names the image and the remedy.
            ConfoundedDesignError: if labels and batches determine each other, and there are no controls.
        """
        self._fitted = None
        self.check_parameters()
        design = Design.of(X, self._parameters, batch=batch, control=control, group=group, label=label)
        self._fitted = learn(self._parameters, design)
        return self

    @overload
    def transform(
        self, X: "Manifest", *, out_dir: str | Path, overwrite: bool = False, progress: Any = None
    ) -> "pd.DataFrame": ...
    @overload
    def transform(
        self, X: Array, *, batch: Any, return_quality: Literal[False] = False, **options: Unpack[_Options]
    ) -> Array: ...
    @overload
    def transform(
        self, X: Kind, *, batch: Any, return_quality: Literal[False] = False, **options: Unpack[_Options]
    ) -> Kind: ...
    @overload
    def transform(
        self, X: Kind, *, batch: Any, return_quality: Literal[True], **options: Unpack[_Options]
    ) -> "tuple[Kind, pd.DataFrame]": ...
    def transform(
        self,
        X: Any,
        *,
        batch: Any = None,
        return_quality: bool = False,
        nan: str = "error",
        origin: Sequence[Origin] | None = None,
        out_dir: str | Path | None = None,
        overwrite: bool = False,
        progress: Any = None,
    ) -> Any:
        """Return the images as the target batch would have recorded them, or write them for a `Manifest`.

        Args:
            X: images as in `fit`; a dask array gives a dask array, computed when asked for.
            batch: the batch of each image, or one name for all. Not every fitted batch has to occur.
            return_quality: also return a table (pandas) with a row for each image; see `judgement.quality.quality_of`.
            nan: "error"; or "mask", which leaves NaN and infinities in place.
            origin: for "+field": row and column of each image's first pixel on the camera, if the images are crops.
            out_dir: for a `Manifest`: the folder of the results, which have the names, formats, types and metadata of
                the originals. Existing results are kept, so the same call finishes a stopped run.
            overwrite: replace existing results.
            progress: for a `Manifest`: called with the number of rows done and the total.

        Returns:
            The images, in the kind that was given. For a `Manifest` its table, with a column `status` ("done", "kept",
            "failed"), `error`, and the quality of each image; also written to `out_dir/equalized.csv`.

        Raises:
            NotFittedError: before `fit`.
            UnknownBatchError: if a batch was not fitted, unless `unseen` is "passthrough".
            InputError: if channels, values or sizes do not fit; InputTypeError: if types do not.
        """
        fitted, p = self.fitted_, self._parameters
        if is_manifest(X):
            if out_dir is None:
                raise InputError("The results of a Manifest are files; give out_dir=, the folder for them.")
            return transform_files(p, fitted, X, Path(out_dir), overwrite=overwrite, progress=progress)
        if out_dir is not None:
            raise InputError("out_dir= is for a Manifest; the results of arrays are returned.")
        choose("value of nan,", nan, ("error", "mask"))
        design = Design.of(X, p, batch=batch)
        fitted.check(design.images, design.batch, p.unseen)
        return transform_arrays(
            p, fitted, design.images, design.batch, return_quality=return_quality, nan=nan, origin=origin
        )

    @overload
    def fit_transform(self, X: Array, y: Any = None, *, batch: Any, **others: Any) -> Array: ...
    @overload
    def fit_transform(self, X: Kind, y: Any = None, *, batch: Any, **others: Any) -> Kind: ...
    def fit_transform(self, X: Any, y: Any = None, *, batch: Any, **others: Any) -> Any:
        """Call `fit`, then `transform` on the same images; `others` are arguments of `fit`."""
        return self.fit(X, y, batch=batch, **others).transform(X, batch=batch)

    def add_batch(self, name: str, X: "Manifest | Any", *, group: Any = None) -> Self:
        """Learn one more batch; use its controls if the fit was on controls. Everything else stays as it is.

        Raises:
            ConfigError: if the model has a network, which only knows the batches it was trained on.
            InputError: if the batch is there already, or has too few images.
        """
        fitted, p = self.fitted_, self._parameters
        (name,) = check_batch([name], 1, "name")
        design = Design.of(X, p, batch=None if is_manifest(X) else name, group=group)
        self._fitted = learn_batch(p, fitted, name, design)
        return self

    def evaluate(
        self,
        X: "Manifest | Any",
        *,
        batch: Any = None,
        label: Any = None,
        control: Any = None,
        group: Any = None,
        masks: str | Sequence[Array] | None = None,
        truth: Any = None,
        nuclei: int | str = 0,
        dark: bool | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Evaluation:
        """Judge the equalizer on images it was not fitted to, beside what a lab would use instead.

        Args:
            X: images as in `transform`; or a `Manifest`, which brings the next four arguments itself.
            batch: the batch of each image.
            label: what must survive, such as a treatment or a class.
            control: whether each image is a control; the others are then treated.
            group: groups as in `fit`; those that were fitted are refused.
            masks: objects of each image as labels (H, W), or a column of such files; by default they are segmented in
                the input.
            truth: the images without batch effect, if they are known; as X.
            nuclei: the channel, by number or name, in which objects are segmented.
            dark: whether objects are dark; by default what `fit` found.
            progress: called with the number of methods judged and the total.

        Raises:
            InputError: if the images do not fit, or a group was part of the fit.
            ConfoundedDesignError: if labels and batches determine each other, and the fit was not on controls.
        """
        fitted, p = self.fitted_, self._parameters
        design = Design.of(X, p, batch=batch, control=control, group=group, label=label)
        if isinstance(masks, str) and design.manifest is None:
            raise InputError("masks= names a column, but X is not a Manifest; give the label images.")
        labels = design.manifest.masks(masks) if isinstance(masks, str) else masks
        known = None if truth is None else list(unpack(truth, p.axes, p.channels, "truth"))
        return judge(p, fitted, design, masks=labels, truth=known, nuclei=nuclei, dark=dark, progress=progress)

    # Shorthands for Manifest.open

    def fit_table(self, table: Any, root: str | Path | None = None, **columns: Any) -> Self:
        """Call `fit` on `Manifest.open(table, root, **columns)`."""
        return self.fit(_opened(table, root, columns))

    def transform_table(
        self, table: Any, root: str | Path | None, out_dir: str | Path, *, batch: str | None = None,
        where: str | None = None, overwrite: bool = False, progress: Any = None,
    ) -> "pd.DataFrame":  # fmt: skip
        """Call `transform` on `Manifest.open(table, root, batch=batch, where=where)`."""
        _ = self.fitted_
        manifest = _opened(table, root, {"batch": batch, "where": where})
        return self.transform(manifest, out_dir=out_dir, overwrite=overwrite, progress=progress)

    def evaluate_table(
        self, table: Any, root: str | Path | None = None, *, masks: str | None = None, nuclei: int | str = 0,
        dark: bool | None = None, progress: Callable[[int, int], None] = lambda done, total: None, **columns: Any,
    ) -> Evaluation:  # fmt: skip
        """Call `evaluate` on `Manifest.open(table, root, **columns)`."""
        return self.evaluate(_opened(table, root, columns), masks=masks, nuclei=nuclei, dark=dark, progress=progress)

    def save(self, folder: str | Path) -> None:
        """Write config.json and weights.safetensors into `folder`.

        Raises:
            NotFittedError: before `fit`.
            OSError: if it cannot be written; existing files stay as they are.
        """
        store.save(self._parameters, self.fitted_, Path(folder))

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote; nothing in it is executed.

        Raises:
            ModelFileError: if the files are missing, damaged, or of a newer version.
        """
        parameters, fitted = store.load(Path(folder))
        equalizer = cls(**vars(parameters))
        equalizer.check_parameters()
        equalizer._fitted = fitted
        return equalizer


def _opened(table: Any, root: str | Path | None, columns: Mapping[str, Any]) -> "Manifest":
    from img2img.lab.tables.manifest import Manifest

    return Manifest.open(table, root, **columns)
