# %% [markdown]
# Batch equalization, worked through on synthetic plates: four plates of fluorescent nuclei, A to D, each as its own
# microscope takes them. Since the batch effects are synthetic, the ground truth is known, which it never is in a lab.
#
#     python examples/equalize_batches.py [FOLDER]
#
# Run it cell by cell in an editor that supports `# %%`, or as a whole: it takes about a minute on one core. It writes
# `report.html` and the pictures into FOLDER, by default checkpoints/equalize_example. It requires
# `pip install 'img2img-gan[lab]'`.

# %%
import sys
from itertools import count
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from img2img import BatchEqualizer
from img2img.lab import BASELINES, Case, measure
from img2img.lab.curves.field import surface
from img2img.lab.synthetic import EFFECTS, SEEDED, brighten, expose, light, nuclei

out = Path(sys.argv[1] if sys.argv[1:] else "checkpoints/equalize_example")
out.mkdir(parents=True, exist_ok=True)
rng = np.random.default_rng(0)

# %% [markdown]
# ## The plates
#
# A well has two fields. In treated wells, nuclei are 1.5 times as bright: an effect that looks like a gain of the
# batch, and that must not be equalized away. The plates also differ in the number of seeded cells, which is not a
# batch effect either: a method that matches histograms of whole images mistakes it for one.
#
# B has a dimmer lamp with a dark rim, C a brighter one and is out of focus, D an uneven one and more noise. E follows
# later.

# %%
NUMBERS = count()  # so that no well occurs twice


def plate(name, controls, treated):
    """Return images, their ground truth (A's microscope, without noise), and what is known of them."""
    images, truth, masks, treatment, wells = [], [], [], [], []
    for well, number in zip(range(controls + treated), NUMBERS, strict=False):
        for _ in range(2):
            signal, labels = nuclei(rng, 128, SEEDED[name])
            if well >= controls:
                signal = brighten(signal, labels)
            images.append(expose(signal, EFFECTS[name], rng)[None])  # (C, H, W), one channel
            truth.append(expose(signal, EFFECTS["A"], None)[None])
            masks.append(labels)
            treatment.append("drug" if well >= controls else "DMSO")
            wells.append(f"{name}{number}")
    return {
        "images": np.stack(images),
        "truth": np.stack(truth),
        "masks": np.stack(masks),
        "treatment": np.array(treatment),
        "control": np.array(treatment) == "DMSO",
        "well": np.array(wells),
        "batch": np.full(len(images), name),
    }


def joined(*plates):
    return {key: np.concatenate([p[key] for p in plates]) for key in plates[0]}


# Wells to learn from, and other wells to judge on. Each plate has 12 control wells with 24 fields to learn from.
learn = joined(*(plate(name, 12, 4) for name in "ABCD"))
judge = joined(*(plate(name, 6, 6) for name in "ABCD"))
print(f"{len(learn['images'])} images to learn from, {len(judge['images'])} to judge on, {learn['images'].dtype}")

# %% [markdown]
# ## The batch effect
#
# The same kind of controls, measured on four plates: background and brightness of the nuclei differ by far more than
# would be acceptable when looking for a treatment's effect.


# %%
def brightness(images, masks):
    """Return the median pixel of the background, and of the nuclei above it."""
    background = np.median(images[:, 0][masks == 0])
    return background, np.median(images[:, 0][masks > 0]) - background


for name in "ABCD":
    rows = (judge["batch"] == name) & judge["control"]
    print(f"plate {name}: background {{:.0f}}, controls' nuclei {{:.0f}} above it".format(
        *brightness(judge["images"][rows], judge["masks"][rows])))  # fmt: skip

# %% [markdown]
# ## Learning from controls
#
# `tone` learns a monotone curve for each plate. `tone+field` first corrects the illumination. Only controls are
# learned from, so the treatment's effect cannot be mistaken for the plate's. Wells are passed as groups, because two
# fields of a well are not two independent pieces of evidence. `target` would be chosen automatically; A is named
# here because the ground truth is A's.

# %%
settings = {"batch": learn["batch"], "control": learn["control"], "group": learn["well"]}
tone = BatchEqualizer(model="tone", target="A").fit(learn["images"], **settings)
field = BatchEqualizer(model="tone+field", target="A").fit(learn["images"], **settings)
print(f"images per plate: {field.n_images_}; sham change {field.sham_:.2%} of the range")

# %% [markdown]
# ## Equalizing
#
# The result has the type and size of the input, and the target plate is returned bit for bit. The quality table states
# for each image how far to trust it.

# %%
equalized, quality = field.transform(judge["images"], batch=judge["batch"], return_quality=True)
home = judge["batch"] == "A"
assert np.array_equal(equalized[home], judge["images"][home]) and equalized.dtype == np.uint16
print(quality.groupby("batch")[["clipped", "saturated", "unfamiliar", "change"]].max().round(4))
print("flagged:", quality["flags"].ne("").sum(), "of", len(quality))

# %% [markdown]
# Before and after, all displayed with A's range.

# %%
low, high = field.scale_[0]
toned = tone.transform(judge["images"], batch=judge["batch"])
shown = {"before": judge["images"], "tone": toned, "tone+field": equalized, "truth": judge["truth"]}
figure = Figure(figsize=(8.4, 8.8), layout="constrained")
for line, (title, images) in zip(figure.subplots(4, 4), shown.items(), strict=True):
    for axes, name in zip(line, "ABCD", strict=True):
        first = int(np.flatnonzero(judge["batch"] == name)[0])
        axes.imshow(images[first, 0], cmap="gray", vmin=low, vmax=high)
        axes.set(title=f"{name}, {title}", xticks=[], yticks=[])
figure.savefig(out / "before_and_after.png", dpi=110)

# %% [markdown]
# The illumination that was simulated, and its estimate: the light at every position of the camera, relative to plate
# A. It is estimated from two dozen fields with a few nuclei each, and only as far as it is certain: C, which has no
# gradient, stays even.

# %%
figure = Figure(figsize=(8.4, 5.4), layout="constrained")
panels = figure.subplots(2, 3)
for (made, found), name in zip(panels.T, "BCD", strict=True):
    of_gain = light((128, 128), EFFECTS[name]) / EFFECTS[name].gain
    of_fit = np.exp(surface(field.correction_.fields[field.batches_.index(name), 0, 0], (128, 128), (128, 128), (0, 0)))
    for axes, values, title in ((made, of_gain, "made"), (found, of_fit, "found")):
        image = axes.imshow(values / values.mean(), cmap="RdBu_r", vmin=0.6, vmax=1.4)
        axes.set(title=f"{name}, light {title}", xticks=[], yticks=[])
figure.colorbar(image, ax=panels)
figure.savefig(out / "illumination.png", dpi=110)

# %% [markdown]
# ## Judging
#
# Judgement uses wells that were not learned from; `evaluate` refuses others. It compares the model with what a lab
# would do instead. First come the gates: is the treatment's effect kept within plates, and are the nuclei still the
# same and in the same place? Then: does a classifier from plate A work on the others, and can the plate still be
# predicted from an image?

# %%
known = {"batch": judge["batch"], "control": judge["control"], "group": judge["well"], "label": judge["treatment"]}
evaluation = field.evaluate(judge["images"], **known, masks=list(judge["masks"]), truth=judge["truth"])
evaluation.to_html(out / "report.html", quality)
evaluation.to_json(out / "report.json")
print(evaluation.to_text())

# %% [markdown]
# `batch_linear` is the accuracy of a linear probe that predicts the plate; chance is 0.25. It stays high: curves and
# fields leave blur and noise as they are, and a probe sees those. It would also be at chance for a constant image,
# so it is never the only number. The report has its permutation null and the gates in words.
#
# ## What goes wrong: fitting on everything
#
# Now a design in which the treated wells lie mostly on B, C and D: three quarters of each, and a fifth of A. If all
# wells are learned from, the treatment becomes part of "how plate B looks", and is removed. A lab would measure the
# brightness of treated nuclei of B, C and D relative to controls of A.

# %%
unequal, others = (joined(plate("A", n, n // 4), *(plate(name, n, 3 * n) for name in "BCD")) for n in (12, 8))
description = {"batch": unequal["batch"], "group": unequal["well"]}
on_controls = BatchEqualizer(target="A").fit(unequal["images"], control=unequal["control"], **description)
on_all = BatchEqualizer(target="A").fit(unequal["images"], **description)  # warns: no controls were named


def print_effect(title, images):
    """Print the effect between plates, and the similarity to the ground truth."""
    treated, base = (others["batch"] != "A") & ~others["control"], (others["batch"] == "A") & others["control"]
    bright, plain = (brightness(images[rows], others["masks"][rows])[1] for rows in (treated, base))
    error = ((images.astype(float) - others["truth"]) / (high - low))[others["batch"] != "A"]
    psnr = -10 * np.log10((error**2).mean((1, 2, 3)) + 1e-10).mean()  # 100 dB for the ground truth itself
    print(f"{title}: treated over A's controls {bright / plain:.2f}, PSNR {psnr:.1f} dB")


print_effect("the truth", others["truth"])
print_effect("do nothing", others["images"])
for title, model in (("controls", on_controls), ("all wells", on_all)):
    print_effect(f"tone, fitted on {title}", model.transform(others["images"], batch=others["batch"]))
moments = BASELINES["batch moments"]
for title, model in (("controls", on_controls), ("all wells", on_all)):
    images = moments(list(others["images"]), others["batch"].tolist(), model.statistics_)
    print_effect(f"batch moments, fitted on {title}", np.stack(images))

for title, model in (("controls", on_controls), ("all wells", on_all)):
    images = model.transform(judge["images"], batch=judge["batch"])
    case = Case(judge["images"], reference="A", scale=model.scale_, masks=list(judge["masks"]), **known)
    row = measure(case, images)
    print(
        f"tone, fitted on {title}, on the even design: control shift {row['shift_control']:.3f}, effect kept within "
        f"plates {row['retention']:.3f}, phenotype accuracy {row['phenotype_accuracy']:.3f}"
    )

# %% [markdown]
# Between plates, a good part of the treatment's effect is gone after the fit on all wells. Within plates it is not,
# because all images of a plate were dimmed alike: "effect kept" cannot see this, but the controls' shift can.
# Similarity to the ground truth does not reveal it either: matching the moments of whole images, a common remedy,
# has a better PSNR here if it has seen all wells. That is why controls are asked for, and why `evaluate` stamps a
# report as CONFOUNDED if label and plate are associated and the fit did not use controls.
#
# ## A plate that comes later
#
# Its controls are enough. Everything fitted before stays unchanged, so earlier results remain valid.

# %%
later = plate("E", 12, 4)
before = field.transform(judge["images"], batch=judge["batch"])
field.add_batch("E", later["images"][later["control"]], group=later["well"][later["control"]])
assert np.array_equal(before, field.transform(judge["images"], batch=judge["batch"]))

new = plate("E", 6, 0)
moved = field.transform(new["images"], batch="E")
for title, images in (("before", new["images"]), ("after", moved), ("truth", new["truth"])):
    print(f"plate E, {title}: background {{:.0f}}, controls' nuclei {{:.0f}} above it".format(
        *brightness(images, new["masks"])))  # fmt: skip

# %% [markdown]
# ## Saving
#
# Two files, one for people to read and one with numbers; neither can execute anything.

# %%
field.save(out / "equalizer")
again = BatchEqualizer.load(out / "equalizer")
assert np.array_equal(moved, again.transform(new["images"], batch="E"))
print("written:", *sorted(path.name for path in out.iterdir()))
