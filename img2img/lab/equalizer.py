"""`BatchEqualizer`: images of several experimental batches, moved onto one of them."""

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, overload

import numpy as np
from sklearn import exceptions
from sklearn.base import BaseEstimator
from torch import nn

from img2img.data.picture import Array
from img2img.errors import ConfigError, InputError, UnknownBatchError, choose, counted
from img2img.lab import adversarial, checks, design, options as o, probes, quality
from img2img.lab.arrays import Stack, unpack
from img2img.lab.baselines import Statistics, applicable
from img2img.lab.correction import Correction, Origin
from img2img.lab.design import fingerprint
from img2img.lab.evaluation import Evaluation, evaluate
from img2img.lab.features import image_features
from img2img.lab.moving import MODELS, Model, Mover
from img2img.options.declared import arguments_of

if TYPE_CHECKING:
    import pandas as pd


Kind = TypeVar("Kind")  # of images: what comes out is of the kind that went in
PROBED = 8  # images on which it is seen whether a network does anything
IDLE = 1e-4  # mean change, as a share of the range, below which it does not


class NotFittedError(ConfigError, exceptions.NotFittedError):  # type: ignore[misc]
    """An equalizer that was asked before it was fitted."""


class LabWarning(UserWarning):
    """Something in the data, or in the choice of a model, that a lab should know."""


class BatchEqualizer(BaseEstimator):  # type: ignore[misc]
    """Moves images of several batches onto one, and keeps what differs within a batch.

    The manners are scikit-learn's: `fit` learns from images and the names of their batches, `transform` applies. What
    goes in comes back in the same kind, axes, size and type; images of the target batch come back bit for bit.

    Args:
        model: "tone", a monotone curve per batch and channel; "tone+field", and a smooth illumination field;
            "local" and "local+field", and a small bounded network, trained adversarially; "stargan", one generator
            for all batches; "cyclegan", for two batches. The networks make up pixel values: judge them by
            `img2img equalize report`.
        target: the batch that the others are moved to; "medoid", the one nearest to the others; or, for "tone" and
            "tone+field", "mean" of all.
        axes: of the images, one letter each: N images, C channels, Y rows, X columns. Lists have no N.
        channels: names of the channels, compared where `transform` is given names.
        max_change: largest change by "local", as a share of a channel's range.
        unseen: images of batches that were not fitted: "error", or "passthrough" to give them back as they are.
        out_dtype: "same", or "float32" for values that are neither rounded nor cut.
        min_images: fewest images of a batch, and of its controls where there are any.
        max_images: most images of a batch that are used, spread evenly.
        allow_confounded: fit although a label and the batches say the same; reports are stamped.
        training: options of the adversarial models' training, such as {"steps": 2000}.
        run: folder of that training, which goes on there after a stop; None for a temporary one.
        random_state: seed of everything random.
        device: of the networks: "auto", "cpu", "cuda".
        n_jobs: threads for "tone" and "tone+field"; -1 is one for each core.

    Attributes:
        batches_: names of the batches, sorted; those added later at the end.
        target_: the batch, or "mean".
        channels_: names of the channels, or None.
        scale_: low and high pixel value (C, 2) of the target batch, the unit of every share of the range.
        correction_: the curves and fields.
        generator_: the network, or None.
        statistics_: means and quantiles of the batches, for the baselines in `evaluate`.
        sham_: mean change, as a share of the range, when the target batch alone is split at random and equalized.
        notes_: what `fit` warned of.
    """

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

    # Learning

    def fit(
        self, X: Any, y: Any = None, *, batch: Any, control: Any = None, group: Any = None, label: Any = None
    ) -> Self:
        """Learns what each batch needs.

        Args:
            X: images with the axes `axes`, of numpy, torch, xarray or dask; or a list of images.
            y: not used, as scikit-learn has it.
            batch: the batch of each image.
            control: whether each image is a control; if given, only controls are learned from.
            group: what images share beside the batch, as a well, a donor or a source field.
            label: what must be kept, as a treatment; only used to see whether it can be told from the batches.

        Raises:
            InputError: if the images or their description do not fit; the message says which image, and what to do.
            ConfoundedDesignError: if `label` is the same as the batches, and there are no controls.
        """
        stack = unpack(X, self.axes, self.channels)
        return self._fit(stack, stack.names, batch, control, group, label)

    def fit_table(
        self,
        table: Any,
        root: str | Path | None = None,
        *,
        batch: str | None = None,
        control: str | None = None,
        group: str | None = None,
        label: str | None = None,
        where: str | None = None,
    ) -> Self:
        """As `fit`, on the images that a table names.

        Args:
            table: a DataFrame, or the path of a CSV file, with `FileName_<Channel>` and `Metadata_` columns; or a
                folder whose subfolders are the batches.
            root: the folder that the file names start from; by default that of the CSV file.
            batch: column of the batches; by default Metadata_Batch, or else Metadata_Plate.
            control: a column of truths, or a comparison such as "Metadata_treatment == 'DMSO'".
            group: column of the groups; by default the wells.
            label: column of what must be kept.
            where: only rows of which this comparison is true.
        """
        from img2img.lab.tables import Manifest

        m = Manifest.open(table, root, batch=batch, control=control, group=group, label=label, where=where)
        return self._fit(m.images, m.channels, m.batch, m.control, m.group, m.label)

    def _fit(self, *described: Any) -> Self:
        """Learns all, or nothing: what was learned before is gone either way."""
        self._forget()
        try:
            self._learn(*described)
        except BaseException:
            self._forget()
            raise
        return self

    def _forget(self) -> None:
        for name in [name for name in vars(self) if name.endswith("_")]:
            delattr(self, name)

    def _refuse_unfitted(self) -> None:
        if not hasattr(self, "correction_"):
            raise NotFittedError("This equalizer is not fitted yet; call fit, or load a fitted one.")

    def _learn(
        self, images: Any, names: Sequence[str] | None, batch: Any, control: Any, group: Any, label: Any
    ) -> None:
        model = self.check_parameters()
        self.model_ = self.model
        self.network_: dict[str, Any] | None = None
        n = len(images)
        batches = checks.check_batch(batch, n)
        controls = None if control is None else checks.check_mask(control, n)
        groups = [str(i) for i in range(n)] if group is None else checks.check_group(group, n)
        labels = None if label is None else checks.check_batch(label, n, "label")
        self.notes_: list[str] = []
        if model.network is None and (self.training or self.run):
            self._note(f"training= and run= are for models with a network; {self.model} does not use them.")
        self.cramers_v_ = None if labels is None else probes.cramers_v(batches, labels)
        design.refuse_confounded(batches, labels, controls is not None, self.allow_confounded, self._note)
        if controls is None:
            self._note("No controls were named: whatever differs between the batches is taken for the batch effect.")
        chosen = design.choose_images(batches, controls, self.min_images, self.max_images)
        self._refuse_target(sorted(set(batches)))
        kept = design.part(images, chosen)
        called = [images.called(i) for i in chosen]
        batches, groups = [batches[i] for i in chosen], [groups[i] for i in chosen]
        usable = design.inspect(kept, batches, called, self.min_images, self._note)
        kept, batches, groups = design.Part(kept, usable), [batches[i] for i in usable], [groups[i] for i in usable]
        if group is not None:
            design.note_single_groups(batches, groups, self._note)
        if model.with_field:
            design.refuse_sizes(kept, self.model)

        self.batches_ = sorted(set(batches))
        self.channels_ = list(names) if names is not None else None
        self.n_channels_, self.dtype_ = len(kept[0]), str(kept[0].dtype)
        self.groups_ = sorted(set(groups)) if group is not None else []
        self.fingerprints_ = [fingerprint(image) for image in kept]
        self.on_controls_ = controls is not None
        self.n_images_ = {b: batches.count(b) for b in self.batches_}
        statistics = Statistics.of(kept, batches, reference=self.batches_[0], example=kept[0])
        medoid = design.medoid(statistics)
        self.target_ = medoid if self.target == "medoid" else str(self.target)
        reference = medoid if self.target == "mean" else self.target_
        members = [i for i, b in enumerate(batches) if b == reference]
        self.statistics_ = replace(statistics, reference=reference, example=kept[members[0]])
        self.scale_ = design.find_scale(self.statistics_, self.channels_)
        number = np.array([self.batches_.index(b) for b in batches])
        target = None if self.target_ == "mean" else self.batches_.index(self.target_)
        self.correction_ = Correction.fit(kept, number, groups, target, model.with_field, self.n_jobs)
        features = np.stack([image_features(image, self.scale_) for image in kept])
        self.familiarity_ = quality.Familiarity.of(features, number)
        own = [groups[i] for i in members]
        self.sham_ = design.sham(
            design.Part(kept, members), own, self.scale_, model.with_field, self.random_state, self.n_jobs
        )
        self.generator_: nn.Module | None = None
        if model.network is not None:
            assert target is not None
            self._train(model, kept, number, target)

    def check_parameters(self) -> Model:
        """Return the model; refuse parameters that make no sense.

        Raises:
            ConfigError: naming the parameter and the range it must lie in.
        """
        for name, argument in arguments_of(BatchEqualizer.__init__).items():
            setattr(self, name, argument.convert(getattr(self, name)))
        model = choose("model", self.model, MODELS)
        choose("type of output", self.out_dtype, {"same": 0, "float32": 0})
        if self.target == "mean" and model.network:
            raise ConfigError(
                f"The target 'mean' is for tone and tone+field: the mean of what {self.model} makes would be blurred. "
                "Name a batch, or 'medoid'."
            )
        if self.max_images < self.min_images:
            raise ConfigError(f"max_images, {self.max_images}, is less than min_images, {self.min_images}.")
        return model

    def _refuse_target(self, batches: list[str]) -> None:
        if self.target in ("medoid", "mean") and self.target in batches:
            raise InputError(f"A batch is called {self.target}, which is a word for a target; give it another name.")
        if str(self.target) not in (*batches, "medoid", "mean"):
            raise InputError(
                f"There is no batch '{self.target}' to be the target; there are {', '.join(batches)}, and the words "
                "medoid and mean."
            )

    def _note(self, sentence: str) -> None:
        self.notes_.append(sentence)
        level, frame = 1, sys._getframe()
        while frame.f_back and frame.f_globals.get("__name__", "").startswith("img2img."):
            level, frame = level + 1, frame.f_back
        warnings.warn(sentence, LabWarning, stacklevel=level)  # it shows the line of the caller, not one of ours

    def _train(self, model: Model, images: Sequence[Array], number: Array, target: int) -> None:
        assert model.network is not None
        self.network_ = {
            "model": model.network,
            "options": self._training_options(),
            "channels": self.n_channels_,
            "batches": len(self.batches_),
        }
        self._note(
            f"{self.model} trains a network: the pixel values it gives are its guesses, not measurements. "
            "Judge it by evaluate(), and keep the originals."
        )
        inputs = [self._mover.network_input(image, int(b)) for image, b in zip(images, number, strict=True)]
        self.generator_ = adversarial.train_generator(
            model.network,
            inputs,
            number.tolist(),
            self.batches_,
            target,
            folder=None if self.run is None else Path(self.run),
            options=self._training_options(),
            seed=self.random_state,
            device=self.device,
        )
        moved = [(inputs[i], int(b)) for i, b in enumerate(number) if b != target][:PROBED]
        changes = [float(np.abs(self._mover.run_network(x, b) - x).mean()) / 2 for x, b in moved]  # the range is 2 wide
        if max(changes) < IDLE:
            self._note(
                f"The network of {self.model} changes nothing: by less than {IDLE:.2%} of the range. It was trained "
                "for too short a time; give more steps in training=, on a GPU where there is one."
            )

    def _training_options(self) -> dict[str, Any]:
        bound = {"max_change": self.max_change} if MODELS[self.model].network == "local" else {}
        return bound | dict(self.training or {})

    # Applying

    @overload
    def transform(
        self,
        X: Array,
        *,
        batch: Any,
        return_quality: Literal[False] = False,
        nan: str = "error",
        origin: Sequence[Origin] | None = None,
    ) -> Array: ...
    @overload
    def transform(
        self,
        X: Kind,
        *,
        batch: Any,
        return_quality: Literal[False] = False,
        nan: str = "error",
        origin: Sequence[Origin] | None = None,
    ) -> Kind: ...
    @overload
    def transform(
        self,
        X: Kind,
        *,
        batch: Any,
        return_quality: Literal[True],
        nan: str = "error",
        origin: Sequence[Origin] | None = None,
    ) -> "tuple[Kind, pd.DataFrame]": ...
    def transform(
        self,
        X: Any,
        *,
        batch: Any,
        return_quality: bool = False,
        nan: str = "error",
        origin: Sequence[Origin] | None = None,
    ) -> Any:
        """The images as the target batch would have taken them.

        Args:
            X: images as in `fit`; of a dask array the result is one too, computed when asked for.
            batch: the batch of each image, or one name for all. Not all batches of the fit need be there.
            return_quality: also return a table (pandas) with a row for each image; see `quality.note`.
            nan: "error"; or "mask", which leaves NaN and infinities where they are.
            origin: for "+field": row and column of each image's first pixel on the camera, where images are parts.

        Raises:
            NotFittedError: before `fit`.
            UnknownBatchError: if a batch was not fitted, unless `unseen` is "passthrough".
            InputError: if channels, values or sizes do not fit; InputTypeError: if types do not.
        """
        self._refuse_unfitted()
        choose("way with NaN", nan, {"error": 0, "mask": 0})
        stack = unpack(X, self.axes, self.channels)
        batches = [batch] * len(stack) if isinstance(batch, str) else checks.check_batch(batch, len(stack))
        self._check(stack, batches)
        places = [(0, 0)] * len(stack) if origin is None else [(int(y), int(x)) for y, x in origin]
        if len(places) != len(stack):
            raise InputError(f"origin has {len(places)} places, and there are {len(stack)} images; give one for each.")

        def one(i: int, image: Array) -> Array:
            checks.check_range(image, stack.called(i), self.dtype_, self._highest)
            filled, holes = self._filled(image, stack.called(i), nan)
            out = self._apply(filled, batches[i], places[i] if origin is not None else None)
            if holes is not None:
                out[holes] = image[holes]
            return out

        dtype = np.dtype(np.float32) if self.out_dtype == "float32" else stack.dtype
        if stack.lazy and not return_quality:
            return stack.map(one, dtype)

        def noted(i: int) -> tuple[Array, dict[str, Any]]:
            image = stack[i]
            result = one(i, image)
            if not return_quality:
                return result, {}
            filled, _ = self._filled(image, f"Image {i} of {stack.what}", nan)
            place = places[i] if origin is not None else None
            return result, {"batch": batches[i]} | self._quality(filled, batches[i], place)

        with ThreadPoolExecutor(checks.threads(self.n_jobs)) as pool:
            results, rows = zip(*pool.map(noted, range(len(stack))), strict=True)
        if not return_quality:
            return stack.pack(results)
        import pandas as pd

        return stack.pack(results), pd.DataFrame(list(rows))

    @overload
    def fit_transform(self, X: Array, y: Any = None, *, batch: Any, **others: Any) -> Array: ...
    @overload
    def fit_transform(self, X: Kind, y: Any = None, *, batch: Any, **others: Any) -> Kind: ...
    def fit_transform(self, X: Any, y: Any = None, *, batch: Any, **others: Any) -> Any:
        """`fit`, then `transform` of the same images; `others` are those of `fit`."""
        return self.fit(X, y, batch=batch, **others).transform(X, batch=batch)

    def transform_table(
        self,
        table: Any,
        root: str | Path | None,
        out_dir: str | Path,
        *,
        batch: str | None = None,
        where: str | None = None,
        overwrite: bool = False,
        progress: Any = None,
    ) -> "pd.DataFrame":
        """Equalizes the files that a table names, into `out_dir`: same names, formats, types and metadata.

        Files that are there already are kept, so that a stopped run is finished by the same call.

        Returns:
            The table with a column `status` ("done", "kept", "failed"), `error`, and the quality of each image; also
            written to `out_dir/equalized.csv`.
        """
        from img2img.lab import results, tables

        self._refuse_unfitted()
        manifest = tables.Manifest.open(table, root, batch=batch, where=where)
        names = self._known(manifest.batch)
        if manifest.readable:  # or every row is reported
            checks.check_channels(manifest.images, self.n_channels_, self.channels_)
            if manifest.dtype.kind != "f":
                checks.check_dtype(manifest.images, self.dtype_)

        def one(i: int, image: Array) -> tuple[Array, dict[str, Any]]:
            checks.check_image_finite(image, f"Row {i}", self.channels_)
            stack = Stack((image[None],), list(manifest.channels), f"row {i}", lambda parts: parts[0])
            self._check(stack, [names[i]])
            return self._apply(image, names[i], None), self._quality(image, names[i], None)

        return results.transform(
            manifest, one, Path(out_dir), overwrite=overwrite, progress=progress, n_jobs=self.n_jobs
        )

    def _check(self, stack: Any, batch: list[str]) -> None:
        self._known(batch)
        checks.check_channels(stack, self.n_channels_, self.channels_)
        checks.check_dtype(stack, self.dtype_, self._highest)

    @property
    def _highest(self) -> float:
        return float(self.scale_[:, 1].max())

    def _known(self, batch: list[str]) -> list[str]:
        unknown = sorted(set(batch) - set(self.batches_))
        if unknown and self.unseen == "error":
            raise UnknownBatchError(
                f"Batch {', '.join(unknown)} was not fitted; there are {', '.join(self.batches_)}. Fit it with "
                "add_batch(name, its controls), or say unseen='passthrough' to leave such images as they are."
            )
        return batch

    @staticmethod
    def _filled(image: Array, what: str, nan: str) -> tuple[Array, Array | None]:
        """The image with its holes filled by each channel's median, and the holes."""
        if image.dtype.kind != "f" or np.isfinite(image).all():
            return image, None
        if nan == "error":
            checks.check_image_finite(image, what)
        holes = ~np.isfinite(image)
        filled = image.copy()
        for plane, hole in zip(filled, holes, strict=True):
            plane[hole] = np.median(plane[~hole]) if not hole.all() else 0
        return filled, holes

    @property
    def _mover(self) -> Mover:
        return Mover(
            MODELS[self.model_],
            self.batches_,
            self.target_,
            self.scale_,
            self.correction_,
            self.generator_,
            self.device,
        )

    def _apply(self, image: Array, name: str, origin: Origin | None) -> Array:
        """The equalized image, in the type of output that was asked for."""
        return (
            self._mover.values(image, name, origin) if self.out_dtype == "float32" else self._mover(image, name, origin)
        )

    def _quality(self, image: Array, name: str, origin: Origin | None) -> dict[str, Any]:
        number = self.batches_.index(name) if name in self.batches_ else None
        return quality.note(image, self._mover.values(image, name, origin), self.scale_, self.familiarity_, number)

    # A new batch, and the judgement

    def add_batch(self, name: str, X: Any, *, group: Any = None) -> Self:
        """Learns one more batch, from its controls where the fit was on controls; all else stays as it is.

        Raises:
            ConfigError: if the model has a network, which knows the batches it was trained on only.
            InputError: if the batch is there already, or has too few images.
        """
        self._refuse_unfitted()
        if self.generator_ is not None:
            raise ConfigError(f"{self.model_} knows only the batches it was trained on; fit again with the new one.")
        (name,) = checks.check_batch([name], 1, "name")
        if name in self.batches_:
            raise InputError(f"There is a batch '{name}' already; give the new one another name.")
        stack = unpack(X, self.axes, self.channels)
        checks.check_channels(stack, self.n_channels_, self.channels_)
        checks.check_dtype(stack, self.dtype_, self._highest)
        groups = [f"{name} {i}" for i in range(len(stack))] if group is None else checks.check_group(group, len(stack))
        called = [stack.called(i) for i in range(len(stack))]
        usable = design.inspect(stack, [name] * len(stack), called, self.min_images, self._note)
        images, groups = [stack[i] for i in usable], [groups[i] for i in usable]
        for image in images:
            self._mover.place(image, None)
        correction = self.correction_.with_batch(images, groups, self.n_jobs)
        features = np.stack([image_features(image, self.scale_) for image in images])
        statistics = design.with_batch(self.statistics_, name, images)
        self.familiarity_, self.statistics_ = self.familiarity_.with_batch(features), statistics
        self.correction_, self.batches_ = correction, [*self.batches_, name]
        self.n_images_ = self.n_images_ | {name: len(images)}
        self.fingerprints_ = [*self.fingerprints_, *map(fingerprint, images)]
        if group is not None:
            self.groups_ = sorted({*self.groups_, *groups})
        return self

    def evaluate(
        self,
        X: Any,
        *,
        batch: Any,
        label: Any = None,
        control: Any = None,
        group: Any = None,
        masks: Any = None,
        truth: Any = None,
        nuclei: int | str = 0,
        dark: bool | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Evaluation:
        """Judges the equalizer on images that it was not fitted on, beside what a lab would use instead.

        Args:
            X: images as in `transform`.
            batch: of each image.
            label: what must survive, as a treatment or a class.
            control: whether each image is a control; the others are then treated.
            group: as in `fit`; groups that were fitted are refused.
            masks: objects of each image as labels (H, W); by default they are segmented in the input.
            truth: what the images should be, where that is known; as X.
            nuclei: the channel, by number or name, in which objects are segmented.
            dark: whether objects are dark; by default what `fit` found.
            progress: called with the methods judged, and all there are.

        Raises:
            InputError: if the images do not fit, or a group was part of the fit.
            ConfoundedDesignError: if labels and batches say the same, and the fit was not on controls.
        """
        stack = unpack(X, self.axes, self.channels)
        known = None if truth is None else list(unpack(truth, self.axes, self.channels, "truth"))
        return self._evaluate(stack, batch, label, control, group, masks, known, nuclei, dark, progress)

    def evaluate_table(
        self,
        table: Any,
        root: str | Path | None = None,
        *,
        batch: str | None = None,
        label: str | None = None,
        control: str | None = None,
        group: str | None = None,
        masks: str | None = None,
        nuclei: int | str = 0,
        dark: bool | None = None,
        where: str | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Evaluation:
        """As `evaluate`, on the images that a table names; `masks` is a column of label images."""
        from img2img.lab.tables import Manifest

        m = Manifest.open(table, root, batch=batch, control=control, group=group, label=label, where=where)
        objects = None if masks is None else m.masks(masks)
        groups = m.group if self.groups_ else None
        return self._evaluate(m.images, m.batch, m.label, m.control, groups, objects, None, nuclei, dark, progress)

    def _evaluate(
        self,
        stack: Any,
        batch: Any,
        label: Any,
        control: Any,
        group: Any,
        masks: Any,
        truth: Any,
        nuclei: Any,
        dark: Any,
        progress: Callable[[int, int], None],
    ) -> Evaluation:
        self._refuse_unfitted()
        batches, n = checks.check_batch(batch, len(stack)), len(stack)
        self._check(stack, batches)
        channel = self._channel(nuclei)
        groups = None if group is None else checks.check_group(group, n)
        if seen := sorted(set(groups or []) & set(self.groups_)):
            were = counted(len(seen), "group was", "groups were")
            raise InputError(f"{were} part of the fit ({', '.join(seen[:5])}); judge on images of other groups.")
        labels = None if label is None else checks.check_batch(label, n, "label")
        controls = None if control is None else checks.check_mask(control, n).tolist()
        notes = list(self.notes_)
        design.refuse_confounded(batches, labels, self.on_controls_, self.allow_confounded, notes.append)
        chosen = design.judged(stack, batches, self.max_images, notes.append)
        images = [stack[i] for i in chosen]
        for i, image in zip(chosen, images, strict=True):
            checks.check_range(image, stack.called(i), self.dtype_, self._highest)
            checks.check_image_finite(image, stack.called(i), self.channels_)
        seen_images = {*self.fingerprints_}.intersection(map(fingerprint, images))
        if seen_images:
            were = counted(len(seen_images), "of the images was", "of the images were")
            raise InputError(f"{were} part of the fit; judge on others.")
        batches = [batches[i] for i in chosen]
        groups, labels, controls, masks, truth = (
            None if given is None else [given[i] for i in chosen] for given in (groups, labels, controls, masks, truth)
        )
        outputs = {
            name: method(images, batches, self.statistics_) for name, method in applicable(self.statistics_).items()
        }
        outputs |= {"tone": self._toned(images, batches)} if self.generator_ is not None else {}
        outputs[self.model_] = [self._apply(image, b, None) for image, b in zip(images, batches, strict=True)]
        return evaluate(
            outputs,
            before=images,
            batch=batches,
            reference=self.statistics_.reference,
            scale=self.scale_,
            judged=self.model_,
            sham=self.sham_,
            notes=dict.fromkeys(notes),
            fitted_on_controls=self.on_controls_,
            label=labels,
            control=controls,
            group=groups,
            masks=masks,
            truth=truth,
            nuclei=channel,
            dark=bool(self.correction_.signs[channel] < 0) if dark is None else dark,
            seed=self.random_state,
            progress=progress,
        )

    def _toned(self, images: list[Array], batch: list[str]) -> list[Array]:
        return [self.correction_.corrected(x, self.batches_.index(b)) for x, b in zip(images, batch, strict=True)]

    def _channel(self, name: int | str) -> int:
        if isinstance(name, str):
            return choose("channel", name, {c: i for i, c in enumerate(self.channels_ or [])})
        if not 0 <= name < self.n_channels_:
            raise InputError(f"There is no channel {name}; there are {self.n_channels_}.")
        return name

    # Keeping

    def save(self, folder: str | Path) -> None:
        """Writes config.json and weights.safetensors into `folder`.

        Raises:
            NotFittedError: before `fit`.
            OSError: if it cannot be written; what was there before stays.
        """
        from img2img.lab.store import save

        self._refuse_unfitted()
        save(self, Path(folder))

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads what `save` wrote; nothing of it is executed.

        Raises:
            ModelFileError: if the files are missing, damaged, or of a newer version.
        """
        from img2img.lab.store import load

        return load(cls, Path(folder))
