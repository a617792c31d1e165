"""The scores of a method: their names, titles and meanings, and how they are printed."""

Scores = dict[str, float | None]  # by name; None where it could not be measured

IDENTITY = "do nothing"
FEATURES_ONLY = "feature z-score per batch"  # of features, so it has no images and no gates

# Title and meaning of each score, in the order of the report.
COLUMNS: dict[str, tuple[str, str]] = {
    "phenotype_accuracy": (
        "Phenotype accuracy",
        "Balanced accuracy of a classifier trained on the reference batch and tested on other groups in the other "
        "batches; mean of nearest neighbours and a linear classifier, on the pixels inside objects. Higher is better.",
    ),
    "phenotype_knn": ("– nearest neighbours", "The nearest neighbours alone."),
    "phenotype_linear": ("– linear", "The linear classifier alone."),
    "batch_linear": (
        "Batch predictability (linear)",
        "Balanced accuracy of a linear probe that predicts the batch of images from groups it has not seen. Lower is "
        "better, down to chance.",
    ),
    "batch_forest": ("Batch predictability (forest)", "Balanced accuracy of a random forest, which sees more."),
    "batch_null": (
        "– permutation null",
        "Accuracy of the linear probe after the batches were shuffled; its 95 % quantile in brackets.",
    ),
    "batch_left": (
        "Batch signal left",
        "Accuracy of the linear probe above chance, as a share of what it is without correction.",
    ),
    "control_batch_linear": (
        "Batch predictability (controls)",
        "Accuracy of the linear probe on controls, where biology cannot help it.",
    ),
    "control_batch_forest": ("– forest", "Accuracy of the random forest on controls."),
    "control_batch_null": (
        "– permutation null",
        "Accuracy of the linear probe on controls after their batches were shuffled.",
    ),
    "control_batch_left": ("– left", "Batch signal left in the controls."),
    "shift_control": (
        "Control shift",
        "Mean |log ratio| of the controls' brightness inside objects between a batch and the reference (all images "
        "count if no controls were named). 0 is no shift; 0.1 is about 10 %.",
    ),
    "retention": (
        "Effect kept",
        "Treated / control brightness inside objects, after over before, within each batch except the reference; mean "
        "over batches, with channels weighted by their effect. 1 is fully kept.",
    ),
    "retention_off": ("– deviation", "Average factor, up or down, by which the effect in a batch departs from 1."),
    "retention_worst_batch": ("– worst batch", "The batch farthest from 1."),
    "retention_worst_channel": ("– worst channel", "The channel farthest from 1."),
    "effect": (
        "Effect to keep",
        "The largest treated / control ratio of any channel in the input; erasing it leaves 1 / this.",
    ),
    "f1": ("Object F1", "F1 of the objects segmented in the output; a match overlaps by more than half."),
    "f1_drop": ("F1 drop", "Loss of F1 relative to the segmentation of the input."),
    "dice": ("Dice", "Agreement of the area covered by objects."),
    "count_error": ("Count error", "Surplus or missing objects per image, as a share of all."),
    "count_excess": ("– above input", "Count error minus that of the input."),
    "px_shift": ("Shift in pixels", "Displacement of the content: 95th percentile over images and channels."),
    "edge_agreement": (
        "Edge agreement",
        "Mean cosine between the gradients before and after, on strong edges; 1 is identical.",
    ),
    "novel_structure": (
        "Novel structure",
        "High-pass residual of the output that no local linear fit of the input explains, as a share of the range. "
        "Invented detail shows here; so does deblurring.",
    ),
    "noise_worst": (
        "Noise, worst channel",
        "Noise of a channel in a batch, over the larger of the reference's and that of its own input; the highest. A "
        "channel without signal that is stretched shows here.",
    ),
    "shift_worst": (
        "Control shift, worst channel",
        "Highest rise of a channel's |log ratio| of the controls' brightness over that of the input, minus 2 standard "
        "errors between groups; below 0 where nothing got worse.",
    ),
    "change": ("Change", "Mean absolute change outside the reference batch, as a share of the range."),
    "reference_change": (
        "Change of the reference",
        "Mean absolute change in the reference batch: 0 for a method that leaves it alone.",
    ),
    "sham": (
        "Sham change",
        "Change after one batch was split in two at random and equalized, where there was nothing to correct.",
    ),
    "w1_background": (
        "Distance, background",
        "Wasserstein-1 distance to the reference batch's pixels outside objects.",
    ),
    "w1_foreground": ("Distance, objects", "Wasserstein-1 distance inside objects, whatever the density of cells."),
    "psnr": (
        "PSNR",
        "dB against the known truth, with the fitted range as data range; only for synthetic batch effects.",
    ),
    "ssim": (
        "SSIM",
        "Structural similarity to the known truth; reported, never a gate, since doing nothing scores high.",
    ),
}  # fmt: skip
SHORT = (
    "phenotype_accuracy",
    "batch_linear",
    "shift_control",
    "retention",
    "f1_drop",
    "dice",
    "px_shift",
    "change",
    "psnr",
)


def number(score: float | None) -> str:
    """Format a score for display."""
    return "–" if score is None else f"{score:.3f}" if abs(score) < 10 else f"{score:.1f}"
