"""Measure training speed and memory against a plain eager fp32 loop of the same networks and the device's ceiling.

    python benchmarks/train.py [--only cyclegan_b1 ... data] [--kinds ours ...] [--rounds N] [--size N] [--device cuda]

Rows: CycleGAN (resnet_9) and pix2pix (U-Net) at 256 px, batch 1 and 4, and DCGAN at 64 px, batch 64; on CUDA batch 16
as well. Each row has these kinds, each in its own process: `plain`, an explicit loop in fp32 and NCHW with PyTorch's
own layers and Adam; `ours`, the step of `img2img train` with its defaults, not compiled; `ours fp32`, if that differs;
`ours compiled` with --compile or on CUDA; `ours checkpointed` with --checkpoint; and on CUDA `ours deterministic`. In
each round, every process takes one step (ten on CUDA) while the others wait, so that a drifting clock slows all of
them; batches too large for all processes at once start a fresh process each time. A ratio is the median over rounds of
plain / ours. The ceiling is the largest matrix product of the device, in the same run; the work is what the plain step
multiplies, forward and backward, as counted by PyTorch (multiply-add = 2). An image is one sample: a pair, or one of
each domain. Batches are already on the device; memory on a CPU is that of the whole process.

`data` measures the loader alone, on generated JPEGs. Writes results.json.
"""

import argparse
import contextlib
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from translate import ceiling, make_images

# Method, size in pixels, batch, options, rounds on a CPU, steps before them.
ROWS = {
    "cyclegan_b1": ("cyclegan", 256, 1, {"generator": "resnet_9"}, 4, 1),
    "cyclegan_b4": ("cyclegan", 256, 4, {"generator": "resnet_9"}, 2, 1),
    "pix2pix_b1": ("pix2pix", 256, 1, {}, 10, 2),
    "pix2pix_b4": ("pix2pix", 256, 4, {}, 6, 2),
    "dcgan_b64": ("dcgan", 64, 64, {}, 12, 2),
}
CUDA_ROWS = {
    "cyclegan_b16": ("cyclegan", 256, 16, {"generator": "resnet_9"}, 2, 1),
    "pix2pix_b16": ("pix2pix", 256, 16, {}, 2, 1),
}
CUDA_ROUNDS = 5
HUGE = {"cyclegan_b4"}  # 12 GB per kind on a CPU, too much for all of them at once


def build(method, size, options):
    """Return a fresh method and the domains of a batch."""
    from img2img.core.needs import Facts
    from img2img.methods import METHODS

    cls = METHODS[method]
    names = cls.Config.needs.domains
    facts = Facts(size, dict.fromkeys(names, 3))
    return cls(cls.resolve(cls.Config(**options), facts), facts), names


def batch_of(names, batch, size, device):
    import torch

    return {name: torch.rand(batch, 3, size, size, device=device) * 2 - 1 for name in names}


def make_plain(network, batch_norm=True):
    """Return the same network, weights included, made of PyTorch's own layers.

    Without `batch_norm`, our batch norms stay, which call PyTorch's function.
    """
    from torch import nn

    from img2img.networks import layers, norms

    for name, child in network.named_children():
        if isinstance(child, norms.InstanceNorm):
            setattr(network, name, nn.InstanceNorm2d(child.channels))
        elif batch_norm and isinstance(child, norms.BatchNorm):
            own = nn.BatchNorm2d(child.channels, eps=child.eps, device=child.weight.device)
            own.weight, own.bias = child.weight, child.bias
            setattr(network, name, own)
        elif isinstance(child, layers.ReflectPad):
            setattr(network, name, nn.ReflectionPad2d(child.padding))
        else:
            for plain in (nn.Conv2d, nn.ConvTranspose2d):
                if isinstance(child, plain):
                    child.__class__ = plain
            make_plain(child, batch_norm)
    return network


# The three loops, as commonly written.


def plain_cyclegan(method, a, b):
    """Step with lsgan, cycle 10, identity 5, pools of 50, one Adam for both generators, one for both discriminators."""
    import torch
    from torch import nn

    g_ab, g_ba, d_a, d_b = (make_plain(network) for network in (method.g_ab, method.g_ba, method.d_a, method.d_b))
    g_parameters, d_parameters = [*g_ab.parameters(), *g_ba.parameters()], [*d_a.parameters(), *d_b.parameters()]
    adam_g = torch.optim.Adam(g_parameters, 2e-4, betas=(0.5, 0.999))
    adam_d = torch.optim.Adam(d_parameters, 2e-4, betas=(0.5, 0.999))
    l1, mse = nn.L1Loss(), nn.MSELoss()
    pools = {"a": [], "b": []}

    def from_pool(pool, images):
        out = []
        for image in images.detach():
            if len(pool) < 50:
                pool.append(image.clone())
                out.append(image)
            elif random.random() < 0.5:
                i = random.randrange(50)
                out.append(pool[i])
                pool[i] = image.clone()
            else:
                out.append(image)
        return torch.stack(out)

    def judged(logits, real):
        return mse(logits, torch.ones_like(logits) if real else torch.zeros_like(logits))

    def step():
        fake_b, fake_a = g_ab(a), g_ba(b)
        for p in d_parameters:
            p.requires_grad_(False)
        adam_g.zero_grad()
        loss = judged(d_b(fake_b), True) + judged(d_a(fake_a), True)
        loss = loss + 10 * (l1(g_ba(fake_b), a) + l1(g_ab(fake_a), b))
        loss = loss + 5 * (l1(g_ba(a), a) + l1(g_ab(b), b))
        loss.backward()
        adam_g.step()
        for p in d_parameters:
            p.requires_grad_(True)
        adam_d.zero_grad()
        for d, real, fake, pool in ((d_a, a, fake_a, pools["a"]), (d_b, b, fake_b, pools["b"])):
            ((judged(d(real), True) + judged(d(from_pool(pool, fake)), False)) * 0.5).backward()
        adam_d.step()

    return step


def plain_pix2pix(method, a, b):
    """Step with cross-entropy and 100 times L1."""
    import torch
    from torch import nn

    g, d = make_plain(method.g), make_plain(method.d)
    adam_g = torch.optim.Adam(g.parameters(), 2e-4, betas=(0.5, 0.999))
    adam_d = torch.optim.Adam(d.parameters(), 2e-4, betas=(0.5, 0.999))
    l1, bce = nn.L1Loss(), nn.BCEWithLogitsLoss()

    def judged(logits, real):
        return bce(logits, torch.ones_like(logits) if real else torch.zeros_like(logits))

    def step():
        fake = g(a)
        d.requires_grad_(True)
        adam_d.zero_grad()
        fake_logits, real_logits = d(torch.cat([a, fake.detach()], 1)), d(torch.cat([a, b], 1))
        ((judged(fake_logits, False) + judged(real_logits, True)) * 0.5).backward()
        adam_d.step()
        d.requires_grad_(False)
        adam_g.zero_grad()
        (judged(d(torch.cat([a, fake], 1)), True) + 100 * l1(fake, b)).backward()
        adam_g.step()

    return step


def plain_dcgan(method, x):
    """Step with cross-entropy: D moves on real and generated images, then G. Each move draws fresh noise, as ours."""
    import torch
    from torch import nn

    g, d, n = make_plain(method.g), make_plain(method.d), len(x)
    adam_g = torch.optim.Adam(g.parameters(), 2e-4, betas=(0.5, 0.999))
    adam_d = torch.optim.Adam(d.parameters(), 2e-4, betas=(0.5, 0.999))
    bce = nn.BCEWithLogitsLoss()
    ones, zeros = torch.ones(n, 1, device=x.device), torch.zeros(n, 1, device=x.device)

    def noise():
        return torch.rand(n, method.config.latent, 1, 1, device=x.device) * 2 - 1

    def step():
        with torch.no_grad():
            fake = g(noise())
        adam_d.zero_grad()
        (bce(d(x), ones) + bce(d(fake), zeros)).backward()
        adam_d.step()
        d.requires_grad_(False)
        adam_g.zero_grad()
        bce(d(g(noise())), ones).backward()
        adam_g.step()
        d.requires_grad_(True)

    return step


PLAIN = {"cyclegan": plain_cyclegan, "pix2pix": plain_pix2pix, "dcgan": plain_dcgan}


def our_step(method, batch, device, kind):
    """Step as `img2img train` does between two lines of its log."""
    import torch

    from img2img.networks.regions import checkpoint_parts, compile_parts
    from img2img.runtime.device import Runtime

    runtime = Runtime.start(device, "fp32" if kind == "ours fp32" else "auto")
    if kind == "ours deterministic":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    networks = method.networks().values()
    for network in networks:
        runtime.place(network)
    if kind == "ours compiled":
        compile_parts(networks, lambda error: sys.exit(f"compiling failed: {error}"))
    if kind == "ours checkpointed":
        checkpoint_parts(networks)
    method.to(runtime.device).train()
    method.watch = False

    def step():
        method.step(iter([batch] * method.draws))

    return step, runtime.describe()


def flops(method, size, batch, options):
    """Count the multiplications of one plain step, forward and backward, without computing it."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        built, names = build(method, size, options)
        step = PLAIN[method](built.train(), *batch_of(names, batch, size, "meta").values())
        with FlopCounterMode(display=False) as counter:
            step()
    return counter.get_total_flops()


def serve(kind, method, size, batch, options, chunk, device):
    """Answer each line of standard input with `chunk` steps and a line of JSON.

    It holds the seconds per step, and the peak memory of the device or of this whole process.
    """
    import torch

    torch.manual_seed(0)
    random.seed(0)
    built, names = build(method, size, options)
    images = batch_of(names, batch, size, device)
    if kind == "plain":
        built.to(device).train()
        step, what = PLAIN[method](built, *images.values()), f"{device}, fp32"
    else:
        step, what = our_step(built, images, device, kind)
    for _ in sys.stdin:
        begin = time.perf_counter()
        for _ in range(chunk):
            step()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = (time.perf_counter() - begin) / chunk
        if device == "cuda":
            peak = torch.cuda.max_memory_allocated()
        else:  # in kilobytes, on macOS in bytes
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        print(json.dumps({"seconds": seconds, "peak_mib": peak / 2**20, "what": what}), flush=True)


class Worker:
    """A process of this file that waits between its answers; leaving the `with` block ends it."""

    def __init__(self, *words, **environment):
        self.folder = tempfile.TemporaryDirectory()  # an empty compile cache
        self.errors = Path(self.folder.name) / "errors"
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, __file__, *map(str, words)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": self.folder.name} | environment,
            )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        if self.process.wait() and not any(error):
            raise SystemExit(self.why())
        self.folder.cleanup()

    def ask(self):
        self.begin()
        return self.answer()

    def begin(self):
        with contextlib.suppress(BrokenPipeError):  # it has ended; its answer says why
            self.process.stdin.write("go\n")
            self.process.stdin.flush()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(self.why())
        return json.loads(line)

    def why(self):
        """Return the last words of the process; nothing if it was killed for its memory."""
        return self.errors.read_text() or f"{self.process.args} ended with {self.process.wait()}"


def kinds_of(method, args):
    import torch

    from img2img.runtime.device import pick_precision

    kinds = ["plain", "ours"]
    if pick_precision("auto", torch.device(args.device)) is not torch.float32:
        kinds.append("ours fp32")
    if args.compile or args.device == "cuda":
        kinds.append("ours compiled")
    if args.checkpoint and method != "dcgan":  # its generator has running averages
        kinds.append("ours checkpointed")
    if args.device == "cuda":
        kinds.append("ours deterministic")
    return [kind for kind in kinds if kind in (*args.kinds, "plain")] if args.kinds else kinds


def in_turn(name, row, kinds, device, chunk=1):
    """Run `chunk` steps of each kind, one kind after the other, round by round.

    Returns:
        kind -> seconds of its first steps, and kind -> the answers of `serve` that count.
    """
    method, size, batch, options, rounds, warmup = row
    specs = {kind: json.dumps([kind, method, size, batch, options, chunk, device]) for kind in kinds}
    first, answers = {}, {kind: [] for kind in kinds}

    def begun(kind, stack):
        """Start a process of a kind and run its first steps, in which it allocates and compiles."""
        worker = stack.enter_context(Worker("--serve", specs[kind]))
        first[kind] = worker.ask()["seconds"] * chunk
        for _ in range(max(warmup - 1, 1 if kind == "ours compiled" else 0)):
            worker.ask()
        return worker

    with contextlib.ExitStack() as stack:
        waiting = {} if name in HUGE and device == "cpu" else {kind: begun(kind, stack) for kind in kinds}
        for _ in range(rounds):
            for kind in kinds:
                with contextlib.ExitStack() as alone:
                    answers[kind].append((waiting[kind] if waiting else begun(kind, alone)).ask())
            words = ", ".join(f"{kind} {those[-1]['seconds']:.3f}" for kind, those in answers.items())
            print(f"{name:12} seconds per step: {words}", file=sys.stderr, flush=True)
    return first, answers


def measure(name, row, args, top):
    """Measure all kinds of one row."""
    method, size, batch, options, rounds, warmup = row
    chunk = 1
    if args.device == "cuda":  # steps between two synchronizations; training has none
        rounds, warmup, chunk = CUDA_ROUNDS, 1, 10
    size, rounds = args.size or size, args.rounds or rounds
    row = method, size, batch, options, rounds, warmup
    first, answers = in_turn(name, row, kinds_of(method, args), args.device, chunk)
    work = flops(method, size, batch, options)
    result = {"method": method, "size": size, "batch": batch, "rounds": rounds, "tflop": work / 1e12}
    plain = [answer["seconds"] for answer in answers["plain"]]
    for kind, those in answers.items():
        seconds = [answer["seconds"] for answer in those]
        median = statistics.median(seconds)
        ratios = sorted(p / s for p, s in zip(plain, seconds, strict=True))
        result[kind] = {
            "computed": those[0]["what"],
            "s_per_step": median,
            "images_per_s": batch / median,
            "ratio_to_plain": statistics.median(ratios),
            "ratios": ratios,
            "share_of_ceiling": work / median / 1e12 / max(top.values()),
            "peak_mib": those[-1]["peak_mib"],
            "first_step_s": first[kind],
        }
    return result


def measure_data(name, row, folder, args, trained):
    """Measure the loader alone in images/s, from memory and from disk, after decoding what is kept."""
    method, size, batch = row[0], args.size or row[1], row[2]
    source = folder / f"images_{size}"
    if not source.exists():
        for part in ("a", "b"):
            make_images(source / part, args.images, size)
    result = {}
    for kept in (True, False):
        spec = json.dumps([method, size, batch, str(source), kept, args.device])
        with Worker("--load", spec) as worker:
            result["cached" if kept else "from disk"] = worker.ask()["images_per_s"]
    if trained:
        rate = trained["ours"]["images_per_s"]
        result["ratio_to_training"] = {kind: x / rate for kind, x in result.items()}
    print(f"{name:12} data: {result}", file=sys.stderr, flush=True)
    return result


def load_only(method, size, batch, source, kept, device, seconds=5.0):
    """Take batches for some seconds as training does, without using them."""
    import torch

    from img2img.data.options import data_options
    from img2img.data.samples import open_samples
    from img2img.data.stream import auto_workers, stream
    from img2img.methods import METHODS

    needs = METHODS[method].Config.needs
    options = {"size": size, "cache_mb": 4096 if kept else 0}
    options |= {"a": f"{source}/a", "b": f"{source}/b"} if "a" in needs.domains else {"data": f"{source}/a"}
    workers = auto_workers(torch.device(device))
    opened = open_samples(needs, data_options(needs)(**options), 0, workers > 0)
    batches = stream(opened.train, 0, 10**6, batch, workers=workers, pin_memory=device == "cuda")
    for _ in range(2):
        next(batches)
    begin, taken = time.perf_counter(), 0
    while (wall := time.perf_counter() - begin) < seconds or not taken:
        next(batches)
        taken += batch
    return {"images_per_s": taken / wall}


def table(results):
    head = "row", "kind", "computed", "s/step", "images/s", "ratio", "of ceiling", "peak MiB"
    lines = [head]
    for name, row in results["steps"].items():
        for kind, x in row.items():
            if "s_per_step" in (x if isinstance(x, dict) else ()):
                numbers = (f"{x['s_per_step']:.3f}", f"{x['images_per_s']:.2f}", f"{x['ratio_to_plain']:.2f}")
                lines.append(
                    (name, kind, x["computed"], *numbers, f"{x['share_of_ceiling']:.0%}", f"{x['peak_mib']:.0f}")
                )
    text = "\n".join("| " + " | ".join(line) + " |" for line in (lines[0], ("---",) * len(head), *lines[1:]))
    for name, row in results["data"].items():
        more = row.get("ratio_to_training", {})
        said = (
            f"{k} {x:.0f} images/s" + (f", {more[k]:.0f} times the training" if more else "")
            for k, x in row.items()
            if k in ("cached", "from disk")
        )
        text += f"\ndata of {name}: {'; '.join(said)}"
    return text


def main():
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="rows; `data` for the loader of the rows named")
    parser.add_argument("--kinds", nargs="+", help="only these beside `plain`, such as ours 'ours fp32'")
    parser.add_argument("--rounds", type=int, default=0, help="0 = each row's own number, which fits its speed")
    parser.add_argument("--size", type=int, default=0, help="pixels; 0 = the rows' own")
    parser.add_argument("--images", type=int, default=64, help="JPEGs per domain for the data rows")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="compiled rows on a CPU as well")
    parser.add_argument("--checkpoint", action="store_true", help="rows with --checkpoint-activations as well")
    parser.add_argument("--out", type=Path, default=Path("checkpoints/benchmark_train"))
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--load", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(*json.loads(args.serve))
        return
    if args.load:
        print(json.dumps(load_only(*json.loads(args.load))))
        return

    rows = ROWS | (CUDA_ROWS if args.device == "cuda" else {})
    wanted = set(args.only or [*rows, "data"])
    if unknown := wanted - {*rows, "data"}:
        parser.error(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(rows)} and data")
    timed = {name: row for name, row in rows.items() if name in wanted}
    args.out.mkdir(parents=True, exist_ok=True)

    def save(results):
        (args.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")

    top = ceiling(device=args.device)
    results = {
        "command": " ".join(sys.argv),
        "hardware": torch.cuda.get_device_name()
        if args.device == "cuda"
        else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "load_before": os.getloadavg()[0],
        "ceiling_tflops": top,
        "steps": {},
        "data": {},
    }
    print(f"matrix product: fp32 {top['fp32']:.3f}, bf16 {top['bf16']:.3f} TFLOP/s", file=sys.stderr, flush=True)
    for name, row in timed.items():
        results["steps"][name] = measure(name, row, args, top)
        save(results)
    if "data" in wanted:
        with tempfile.TemporaryDirectory(dir=args.out) as folder:
            for name, row in (timed or rows).items():
                results["data"][name] = measure_data(name, row, Path(folder), args, results["steps"].get(name))
    save(results)
    print(table(results))


if __name__ == "__main__":
    main()
