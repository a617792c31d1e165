"""`BatchEqualizer`: images of several experimental batches, moved onto one of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypedDict, TypeVar, Unpack, overload

from sklearn import exceptions
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import estimator_html_repr

from img2img.bulk.options import RayOptions
from img2img.data.picture import Array
from img2img.data.remote import locate
from img2img.errors import ConfigError, InputError, choose
from img2img.lab import options as o, store
from img2img.lab.arrays import unpack
from img2img.lab.checks import check_batch
from img2img.lab.curves.place import Origin
from img2img.lab.design import Design, is_manifest
from img2img.lab.evaluating import judge
from img2img.lab.fitted import Fitted
from img2img.lab.judgement.judge import Evaluation
from img2img.lab.learning import check_parameters, learn, learn_batch
from img2img.lab.notebook import with_batches
from img2img.lab.notes import LabWarning as LabWarning, Notes
from img2img.lab.recommendation import Recommendation
from img2img.lab.recommending import recommend
from img2img.lab.transforming import transform_arrays, transform_files
from img2img.options.declared import arguments_of, checked, options_in
from img2img.runtime.progress import shown_in_notebook

if TYPE_CHECKING:
    import pandas as pd

    from img2img.lab.tables.manifest import Manifest
    from img2img.options import keywords


Kind = TypeVar("Kind")  # of images: the result is of the kind that was given


class NotFittedError(ConfigError, exceptions.NotFittedError):  # type: ignore[misc]
    """An equalizer was used before it was fitted."""


def _learned(name: str) -> Any:
    return property(lambda self: getattr(self.fitted_, name), doc=f"See `Fitted.{name}`.")


class _Options(TypedDict, total=False):
    """Options of `transform` for arrays."""

    nan: str
    origin: Sequence[Origin] | None
    group: Any


class BatchEqualizer(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Move images of several batches onto one of them, and keep what differs within a batch.

    It follows scikit-learn's conventions: `fit` learns from images and the names of their batches, `transform` applies.
    Results have the kind, axes, size and type of the input; images of the target batch are returned bit for bit, unless
    `plate_position` corrects a trend of its own.
    Images are arrays, or a `Manifest`: the files that a table names. In a Pipeline, metadata routing hands the batches,
    controls, groups and labels on to it.

    Args:
        model: "tone", a monotone curve per batch and channel; "tone+field", the same after a smooth illumination field;
            "stain", the amounts of two stains, for stained tissue in RGB of 8 bits; "local" and "local+field", tone or
            tone+field followed by a small bounded network, trained adversarially; "stargan", one generator for all
            batches; "cyclegan", for two batches. The networks make up pixel values: judge them by `img2img equalize
            report`.
        target: the batch that the others are moved to; "medoid", the one nearest to the others; or, for "tone" and
            "tone+field", "mean" of all.
        axes: axes of the images, one letter each: N images, C channels, Y rows, X columns. Lists have no N.
        channels: names of the channels, compared where `transform` is given names; of a table, those that are read.
        max_change: largest change by "local", as a share of a channel's range.
        unseen: images of batches that were not fitted: "error", or "passthrough" to return them unchanged.
        out_dtype: "same", or "float32" for values that are neither rounded nor clipped.
        min_images: minimum number of images of a batch, and of its controls if there are any.
        max_images: maximum number of images of a batch that are used, spread evenly.
        allow_confounded: fit although labels and batches determine each other; reports are stamped.
        allow_single_group: fit although the controls of a batch come from a single group (well, donor), whose own
            difference passes for the batch effect.
        plate_position: also correct trends of brightness along the rows and columns of each plate, as far as at least 6
            wells with controls show them; for tone and tone+field, where groups are wells, called "plate/A01".
        training: options for training the network, such as {"steps": 2000}.
        run: folder of that training, which resumes there after a stop; None for a temporary one.
        random_state: seed of everything random.
        device: device of the networks: "auto", "cpu", "cuda".
        n_jobs: threads; -1 uses one for each core.
        memory: gigabytes of images that stay in memory; `fit` and `check` read others again, and `report`, which also
            holds every method's results, judges on half as much.

    Attributes:
        batches_: names of the batches, sorted; those added later at the end.
        target_: the batch, or "mean".
        channels_: names of the channels, or None.
        scale_: low and high pixel value (C, 2) of the target batch, the unit of every share of the range.
        correction_: the curves and fields, or the stains.
        corrections_: what was found in each channel of each batch, how sure it is and how much of it is corrected: a
            DataFrame with the columns of `lab.curves.found.Found`.
        generator_: the network, or None.
        statistics_: means and quantiles of the batches, for the baselines in `evaluate`.
        sham_: mean change, as a share of the range, when the target batch alone is split at random and equalized.
        notes_: the warnings of the fit.
        n_images_: number of images used from each batch.
        fitted_: all of these and more, as one `Fitted`.
    """

    _fitted: Fitted | None = None
    __metadata_request__fit: ClassVar = {"batch": True, "control": True, "group": True, "label": True}
    __metadata_request__transform: ClassVar = {"batch": True, "group": True}

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
        allow_single_group: bool = False,
        plate_position: bool = False,
        memory: o.Memory = 2.0,
    ) -> None:
        self.model, self.target, self.axes, self.channels = model, target, axes, channels
        self.max_change, self.unseen, self.out_dtype = max_change, unseen, out_dtype
        self.min_images, self.max_images, self.allow_confounded = min_images, max_images, allow_confounded
        self.training, self.run = training, run
        self.random_state, self.device, self.n_jobs = random_state, device, n_jobs
        self.allow_single_group, self.plate_position, self.memory = allow_single_group, plate_position, memory

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

    @property
    def corrections_(self) -> "pd.DataFrame":
        """See `lab.curves.found.Found`."""
        import pandas as pd

        return pd.DataFrame([asdict(found) for found in self.fitted_.corrections])

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
            X: images with the axes `axes`, of numpy, torch, xarray, dask, or anything with shape, dtype and indexing,
                such as zarr, which is read one image at a time; or a list of images; or a `Manifest`, which brings the
                other arguments itself.
            y: the batch of each image if `batch` is not given, which leaves a note; otherwise not used.
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
        notes = Notes()
        if batch is None and y is not None and not is_manifest(X):
            batch = y
            notes("The batches were taken from y; if y is what must be kept, give batch=, and y as label=.")
        images = _with_channels(X, self.channels)
        design = Design.of(images, self._parameters, batch=batch, control=control, group=group, label=label)
        fitted = learn(self._parameters, design)
        self._fitted = replace(fitted, notes=[*notes, *fitted.notes])
        return self

    @shown_in_notebook("checking")
    def check(
        self,
        X: "Manifest | Any",
        *,
        batch: Any = None,
        control: Any = None,
        group: Any = None,
        label: Any = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Recommendation:
        """Recommend a route before any fitting: is there a batch effect on the controls, and can it be separated?

        Args:
            X: images as in `fit`; or a `Manifest`, which brings the next four arguments itself.
            batch: the batch of each image.
            control: whether each image is a control; if given, only controls are looked at.
            group: groups as in `fit`.
            label: labels as in `fit`.
            progress: called with the number of images measured and the total.

        Raises:
            InputError: if there is one batch, or the images or their description do not fit.
        """
        self.check_parameters()
        images = _with_channels(X, self.channels)
        design = Design.of(images, self._parameters, batch=batch, control=control, group=group, label=label)
        return recommend(self._parameters, design, progress)

    @overload
    def transform(
        self,
        X: "Manifest",
        *,
        out_dir: str | Path,
        nan: o.Nan = "error",
        quality: bool = True,
        overwrite: bool = False,
        progress: Any = None,
        **ray: "Unpack[keywords.Spreading]",
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
    @shown_in_notebook("equalizing")
    def transform(
        self,
        X: Any,
        *,
        batch: Any = None,
        group: Any = None,
        return_quality: bool = False,
        nan: o.Nan = "error",
        origin: Sequence[Origin] | None = None,
        out_dir: str | Path | None = None,
        quality: bool = True,
        overwrite: bool = False,
        progress: Any = None,
        **ray: Any,
    ) -> Any:
        """Return the images as the target batch would have recorded them, or write them for a `Manifest`.

        Args:
            X: images as in `fit`; a dask array gives a dask array, computed when asked for, and an array of zarr one
                of numpy.
            batch: the batch of each image, or one name for all. Not every fitted batch has to occur.
            group: the well of each image, as in `fit`; only used with `plate_position`.
            return_quality: also return a table (pandas) with a row for each image; see `judgement.quality.quality_of`.
            nan: images with NaN or infinities: "error", or "mask" to leave those values in place.
            origin: for "+field": row and column of each image's first pixel on the camera, if the images are crops.
            out_dir: for a `Manifest`: the folder of the results, which have the names, formats, types and metadata of
                the originals; or its URL in a store. Existing results are kept, so the same call finishes a stopped
                run.
            quality: for a `Manifest`: measure how far to trust each image, which takes longer than equalizing it.
            overwrite: replace existing results.
            progress: for a `Manifest`: called with the number of rows done and the total.
            **ray: for a `Manifest`: `ray`, `ray_workers`, `ray_cpus` and `ray_gpus`, as in `img2img.translate`; threads
                are then those of `ray_cpus`, not of `n_jobs`.

        Returns:
            The images, in the kind that was given. For a `Manifest` its table, with a column `status` ("done", "kept",
            "failed"), `error`, and the quality of each image; also written to `out_dir/equalized.csv`.

        Raises:
            NotFittedError: before `fit`.
            UnknownBatchError: if a batch was not fitted, unless `unseen` is "passthrough".
            InputError: if channels, values or sizes do not fit; InputTypeError: if types do not.
        """
        fitted, p = self.fitted_, self._parameters
        choose("value of nan,", nan, ("error", "mask"))
        spread = checked(RayOptions, ray, "transform")
        if is_manifest(X):
            if out_dir is None:
                raise InputError("The results of a Manifest are files; give out_dir=, the folder for them.")
            makers = store.makers(fitted, p.out_dtype, X.batch)
            return transform_files(
                p, fitted, self._as_fitted(X), locate(out_dir),
                makers=makers, nan=nan, quality=quality, overwrite=overwrite, progress=progress, spread=spread,
            )  # fmt: skip
        if out_dir is not None:
            raise InputError("out_dir= is for a Manifest; the results of arrays are returned.")
        if spread.ray is not None:
            raise InputError("ray= is for a Manifest; the results of arrays are returned.")
        design = Design.of(X, p, batch=batch, group=group)
        fitted.check(design.images, design.batch, p.unseen)
        return transform_arrays(
            p, fitted, design.images, design.batch,
            return_quality=return_quality, nan=nan, origin=origin, group=design.group,
        )  # fmt: skip

    @overload
    def fit_transform(self, X: Array, y: Any = None, *, batch: Any = None, **others: Any) -> Array: ...
    @overload
    def fit_transform(self, X: Kind, y: Any = None, *, batch: Any = None, **others: Any) -> Kind: ...
    def fit_transform(self, X: Any, y: Any = None, *, batch: Any = None, **others: Any) -> Any:
        """Call `fit`, then `transform` on the same images; `others` are arguments of `fit`."""
        wells = {"group": others["group"]} if self.plate_position and "group" in others else {}
        return self.fit(X, y, batch=batch, **others).transform(X, batch=y if batch is None else batch, **wells)

    def set_output(self, *, transform: str | None = None) -> Self:
        """Refuse tables as results, as scikit-learn asks of every transformer.

        Raises:
            ConfigError: unless `transform` is None or "default".
        """
        if transform not in (None, "default"):
            raise ConfigError(
                f"The results of an equalizer are images, which cannot be returned as {transform}; "
                "leave set_output out, or call it only on the steps that follow."
            )
        return self

    def _repr_html_(self) -> str:
        return with_batches(estimator_html_repr(self), self._fitted)

    def _repr_mimebundle_(self, **options: Any) -> dict[str, str]:
        return {"text/plain": repr(self), "text/html": self._repr_html_()}

    def add_batch(self, name: str, X: "Manifest | Any", *, group: Any = None) -> Self:
        """Learn one more batch; use its controls if the fit was on controls. Everything else stays as it is.

        Args:
            name: the batch.
            X: its images, as in `fit`; or a `Manifest`, of which only the rows of this batch are used, and only its
                controls if it names any.
            group: groups as in `fit`.

        Raises:
            ConfigError: if the model has a network, which only knows the batches it was trained on.
            InputError: if the batch is there already, or has too few images.
        """
        fitted, p = self.fitted_, self._parameters
        (name,) = check_batch([name], 1, "name")
        X = self._as_fitted(X).of_batch(name) if is_manifest(X) else X
        design = Design.of(X, p, batch=None if is_manifest(X) else name, group=group)
        self._fitted = learn_batch(p, fitted, name, design)
        return self

    @shown_in_notebook("judging", "steps")
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
            progress: called with the number of steps done and the total: each image is read, then equalized and
                measured by each method.

        Raises:
            InputError: if the images do not fit, or a group was part of the fit.
            ConfoundedDesignError: if labels and batches determine each other, and the fit was not on controls.
        """
        fitted, p = self.fitted_, self._parameters
        design = Design.of(self._as_fitted(X), p, batch=batch, control=control, group=group, label=label)
        if isinstance(masks, str) and design.manifest is None:
            raise InputError("masks= names a column, but X is not a Manifest; give the label images.")
        labels = design.manifest.masks(masks) if isinstance(masks, str) else masks
        known = None if truth is None else list(unpack(truth, p.axes, p.channels, "truth"))
        return judge(p, fitted, design, masks=labels, truth=known, nuclei=nuclei, dark=dark, progress=progress)

    def _as_fitted(self, X: Any) -> Any:
        """Return a manifest with the channels that were fitted, if `channels` chose its columns; others as they are."""
        chosen = self.channels is not None and is_manifest(X) and len(X.columns) > 1
        return _with_channels(X, self.fitted_.channels if chosen else None)

    # Shorthands for Manifest.open

    def fit_table(self, table: Any, root: str | Path | None = None, **columns: Any) -> Self:
        """Call `fit` on `Manifest.open(table, root, **columns)`."""
        return self.fit(_opened(table, root, columns))

    def transform_table(
        self, table: Any, root: str | Path | None, out_dir: str | Path, *, batch: str | None = None,
        where: str | None = None, nan: o.Nan = "error", quality: bool = True, overwrite: bool = False,
        progress: Any = None, **columns: Any,
    ) -> "pd.DataFrame":  # fmt: skip
        """Call `transform` on `Manifest.open(table, root, batch=batch, where=where, **columns)`; `ray` is its too."""
        _ = self.fitted_
        ray = {name: columns.pop(name) for name in options_in(RayOptions) if name in columns}
        manifest = _opened(table, root, {"batch": batch, "where": where} | columns)
        choices: dict[str, Any] = {"nan": nan, "quality": quality, "overwrite": overwrite, "progress": progress}
        return self.transform(manifest, out_dir=out_dir, **choices, **ray)

    def evaluate_table(
        self, table: Any, root: str | Path | None = None, *, masks: str | None = None, nuclei: int | str = 0,
        dark: bool | None = None, progress: Any = None, **columns: Any,
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


def _with_channels(X: Any, channels: Sequence[str] | None) -> Any:
    return X.with_channels(channels) if is_manifest(X) else X


def _opened(table: Any, root: str | Path | None, columns: Mapping[str, Any]) -> "Manifest":
    from img2img.lab.tables.manifest import Manifest

    return Manifest.open(table, root, **columns)
