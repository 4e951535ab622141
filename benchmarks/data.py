"""Loading pictures: torchvision's ImageFolder and DataLoader, and ours: `python -m benchmarks.data`.

The same folder of JPEGs, drawn here, is read to the last batch once: by a DataLoader with as many
workers as the machine has cores; by ours for the first time, by as many threads; and by ours again, from
the decoded pictures on disk, with and without memory for them. Each case is a process of its own.
"""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure.fresh_process import in_fresh_process, memory_now, peak_memory
from benchmarks.measure.turns import in_turn, median_of
from benchmarks.report.command_line import add_repeat, at_least, make_parser
from benchmarks.report.tables import Table, write

TORCHVISION = "torchvision ImageFolder + DataLoader"
COLD, SECOND, NO_MEMORY = (
    "ours, first start",
    "ours, second start",
    "ours, second start, memory_mb=0",
)
CASES = (TORCHVISION, COLD, SECOND, NO_MEMORY)
BATCH, QUALITY, WIDTH, HEIGHT = 32, 90, 500, 375
PRELOAD = ("torch", "torchvision", "torchvision.datasets", "client_app.data.images")
COLUMNS = (
    *("case", "pictures a second", "times torchvision", "times first start"),
    *("ms of processors a picture", "memory, MB"),
)
NOTE = (
    "Medians. The time is from the folder's name to the last batch of all pictures, central squares "
    "scaled and normalized, files in the system's cache. Memory is the most of a process beyond its "
    "imports, that of a DataLoader's workers included. A second start decodes nothing, and reads no "
    "file that is as it was. Ours gives the same numbers in all three cases."
)


@dataclass(frozen=True)
class Loading:
    """What reading all pictures once took.

    Parameters
    ----------
    seconds, processor : float
        Time that passed, and that of the processors.
    memory : int
        The most bytes beyond those after the imports.
    digest : str
        SHA-256 of the batches of ours; empty for torchvision, which scales before it cuts.
    """

    seconds: float
    processor: float
    memory: int
    digest: str = ""


def draw(folder: Path, count: int) -> None:
    """Draw pictures with shapes, gradients and noise, in two class folders."""
    from PIL import Image

    for kind in ("a", "b"):
        (folder / kind).mkdir(parents=True)
    for number in range(count):
        noise = np.random.default_rng(number)
        small = Image.fromarray(noise.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(small.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=np.int16)
        grain = noise.normal(0, 6, smooth.shape).astype(np.int16)
        picture = Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8))
        picture.save(folder / "ab"[number % 2] / f"{number}.jpg", quality=QUALITY)


def by_torchvision(folder: Path, size: int, workers: int) -> Loading:
    """Read the folder as a user of torchvision would."""
    import torch
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    started, before = time.perf_counter(), _processor()
    steps = [transforms.Resize(size), transforms.CenterCrop(size), transforms.ToTensor()]
    steps.append(transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pictures = ImageFolder(folder, transforms.Compose(steps))
    loader = torch.utils.data.DataLoader(
        pictures, batch_size=BATCH, num_workers=workers, multiprocessing_context="fork"
    )  # "fork" is the default in a process that a user starts, but not in this one
    start = memory_now()
    seen = sum(len(batch) for batch, _ in loader)
    assert seen == len(pictures)
    passed = time.perf_counter() - started
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    memory = peak_memory() - start + workers * max(0, children - start)
    return Loading(passed, _processor() - before, memory)


def by_ours(
    folder: Path, cache: Path, options: Mapping[str, Any], workers: int, seen_before: bool
) -> Loading:
    """Read the folder as a site does; without ``seen_before`` its cache is emptied first."""
    import torch

    from client_app.data.registry import load
    from client_app.data.site_info import SiteInfo

    if not seen_before:
        shutil.rmtree(cache, ignore_errors=True)
    torch.set_num_threads(workers)
    start, started, before = memory_now(), time.perf_counter(), _processor()
    data = load(
        "images", options, SiteInfo("site", None, None, None, folder, cache_dir=cache), seed=1
    )
    digest = hashlib.sha256()
    hashing, hashing_processor = 0.0, 0.0
    for split in (data.train, data.validation, data.test):
        for first in range(0, len(split), BATCH):
            rows = np.arange(first, min(first + BATCH, len(split)))
            batch = split.inputs.batch(rows)
            paused, used = time.perf_counter(), _processor()
            digest.update(batch.numpy().tobytes())
            hashing += time.perf_counter() - paused
            hashing_processor += _processor() - used
    passed = time.perf_counter() - started - hashing
    return Loading(
        passed, _processor() - before - hashing_processor, peak_memory() - start, digest.hexdigest()
    )


def _processor() -> float:
    """Return the seconds of the processors, of children that ended too."""
    own, ended = (
        resource.getrusage(which) for which in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime


def measure(
    folder: Path, size: int, workers: int, repeat: int, work: Path
) -> dict[str, list[Loading]]:
    """Read the folder in each case, in turn."""
    from server_app.compose import compose

    cache = work / "cache"

    def once(case: str, _: int) -> Loading:
        if case == TORCHVISION:
            return in_fresh_process(PRELOAD, by_torchvision, folder, size, workers)
        chosen = [f"data.size={size}", *(["data.memory_mb=0"] if case == NO_MEMORY else [])]
        options = dict(compose("images", chosen).data)
        return in_fresh_process(PRELOAD, by_ours, folder, cache, options, workers, case != COLD)

    found = in_turn(CASES, repeat, once)
    digests = {each.digest for case in CASES[1:] for each in found[case]}
    if len(digests) != 1:
        raise SystemExit("the decoded pictures on disk are not those of the files")
    return found


def table(found: Mapping[str, Sequence[Loading]], count: int, size: int, workers: int) -> Table:
    """Return pictures a second, beside torchvision's and beside our first start's."""
    made = Table(
        f"{count:,} JPEGs of {WIDTH}x{HEIGHT} to {size}x{size}, {workers} workers",
        COLUMNS,
    )
    rates = {case: count / median_of(each, lambda one: one.seconds) for case, each in found.items()}
    for case, each in found.items():
        processor = median_of(each, lambda one: one.processor)
        made.rows[case] = (
            f"{rates[case]:,.0f}",
            f"{rates[case] / rates[TORCHVISION]:.2f}",
            f"{rates[case] / rates[COLD]:.1f}" if case != TORCHVISION else "-",
            f"{1000 * processor / count:.2f}",
            f"{median_of(each, lambda one: float(one.memory)) / 1e6:,.0f}",
        )
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the pictures, read them, and write the table."""
    parser = make_parser("data", __doc__, quick="64 pictures, once")
    add_repeat(parser, 3, "of each case")
    parser.add_argument("--pictures", type=at_least(8), default=3000, help="how many are drawn")
    parser.add_argument("--size", type=at_least(8), default=64, help="side of the squares")
    options = parser.parse(arguments)
    count, repeat = (64, 1) if options.quick else (options.pictures, options.repeat)
    workers = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        draw(work / "pictures", count)
        found = measure(work / "pictures", options.size, workers, repeat, work)
    few = ["64 pictures once: no figures to keep."] if options.quick else []
    more = {"loading": {case: [asdict(one) for one in each] for case, each in found.items()}}
    tables = [table(found, count, options.size, workers)]
    write(options.output, "data", tables, command=options.command, notes=[NOTE, *few], more=more)


if __name__ == "__main__":
    main()
