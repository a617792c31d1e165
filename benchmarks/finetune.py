"""Score pix2pix on few facades, photo to label, 32 px: from scratch, from a model of other facades (--init), frozen.

    python benchmarks/finetune.py DATA [--out DIR] [--steps 1000] [--images 40] [--seeds 3]

DATA holds `train` and `val` of side-by-side photos and label maps. The model to start from learns the first half of
`train` in 1000 steps; the others learn `--images` pairs of the second half. Frozen
weights are put back after each step. Scores are those of benchmarks/facades.py on `val`, as mean and range over the
seeds. Runs that are there are not repeated. Writes results.json.
"""

import argparse
import json
import statistics
from contextlib import contextmanager
from pathlib import Path

import facades
import torch

SMALL = {
    "size": 32,
    "generator": "unet_32",
    "width": 16,
    "d_width": 16,
    "discriminator": "patch_16",
    "keep": 0,
    "log_every": 100,
}
LOWER = ("d.layers.0", "d.layers.2", "d.layers.3")  # of the discriminator, after FreezeD (Mo et al. 2020)


def pairs(names, folder):
    """Link to the named files from a folder, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if not (folder / name.name).exists():
            (folder / name.name).symlink_to(name.resolve())
    return folder


def rows(steps, source):
    """Yield the rows: a title, the steps, the options of the start, and how the names of frozen weights begin."""
    generator = {"init": source, "init_only": "generator"}
    yield "from scratch", steps, {}, ()
    yield "from scratch", steps // 2, {}, ()
    yield "--init RUN", steps // 2, {"init": source}, ()
    yield "--init RUN --init-only generator", steps // 2, generator, ()
    yield "the same, the generator's encoder frozen", steps // 2, generator, ("g.down",)
    yield "--init RUN, D frozen but for its last layer", steps // 2, {"init": source}, LOWER


@contextmanager
def frozen(names):
    """Put the weights of pix2pix whose names begin with these back after each of its steps."""
    from img2img.methods import METHODS

    pix2pix = METHODS["pix2pix"]
    step = pix2pix.step

    def held(self, batches):
        kept = {name: x.detach().clone() for name, x in self.named_parameters() if names and name.startswith(names)}
        scalars = step(self, batches)
        with torch.no_grad():
            for name, x in self.named_parameters():
                if name in kept:
                    x.copy_(kept[name])
        return scalars

    pix2pix.step = held
    try:
        yield
    finally:
        pix2pix.step = step


def main():
    import img2img

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("checkpoints/benchmark_finetune"))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    facades.SIZE = SMALL["size"]
    names = sorted((args.data / "train").glob("*.jpg"))
    half = len(names) // 2
    many = pairs(names[:half], args.out / "many")
    few = pairs(names[half : half + args.images], args.out / "few")

    def scored(name, data, **options):
        model = img2img.train("pix2pix", ab=data, out=args.out / name, quiet=True, **SMALL | options)
        return facades.score(model, args.data / "val")["pixel_accuracy"]

    source = args.out / "source"
    found = {("the model to start from", 0): [scored("source", many, steps=1000)]}
    for seed in range(args.seeds):
        for title, steps, start, names in rows(args.steps, source):
            name = f"{len(start)}{len(names) or ''}_{steps}_{seed}"
            with frozen(names):
                found.setdefault((title, steps), []).append(scored(name, few, steps=steps, seed=seed, **start))
            print(seed, title, steps, f"{found[title, steps][-1]:.4f}", flush=True)
    (args.out / "results.json").write_text(json.dumps([[*key, x] for key, x in found.items()], indent=2) + "\n")
    print("\n| start | steps | pixels right | of the seeds |\n|---|---|---|---|")
    for (title, steps), x in found.items():
        print(f"| {title} | {steps} | {statistics.mean(x):.3f} | {min(x):.3f} to {max(x):.3f} |")


if __name__ == "__main__":
    main()
