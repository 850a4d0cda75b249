"""Whether a row's result in a batched matrix product depends on its position in the block, for this processor and torch build.

    python benchmarks/row_position.py [--block 128] [--output benchmarks/results/row_position.md]

Scores are promised to be the same bits whatever the chunk size and the order of rows, so a row must not be rounded differently because it
is the third one of a block instead of the first. For every output width from 2 to 128 the products of rows at 31 offsets are compared with
those at offset 0: float32, as ``torch.baddbmm`` of the detector's networks is called. The candidates are cures: padding the output width
to a multiple, and products in float64. ``MKL_CBWR=AUTO,STRICT`` in the environment is a fourth one: run the script again with it.
Times are the median over repetitions of one pass over all widths, relative to the plain product.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from measured import processor
from torch import Tensor

NETWORKS = 3
INPUTS = (4, 10, 20, 96)
WIDTHS = range(2, 129)
OFFSETS = range(1, 32)
ROWS = (1, 2, 7, 32, 64, 100, 256, 384, 2048)
REPETITIONS = 5
Product = Callable[[Tensor, Tensor, Tensor], Tensor]


def padded(multiple: int) -> Product:
    """Return the product with its output width padded by zeros to a multiple."""

    def product(bias: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
        width = weight.shape[-1]
        extra = (0, -width % multiple)
        return torch.baddbmm(torch.nn.functional.pad(bias, extra), rows, torch.nn.functional.pad(weight, extra))[..., :width]

    return product


def in_double(bias: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
    """Return the product computed in float64 and rounded once."""
    return torch.baddbmm(bias.double(), rows.double(), weight.double()).float()


CANDIDATES: dict[str, Product] = {
    "plain": torch.baddbmm,
    "padded to 4": padded(4),
    "padded to 8": padded(8),
    "padded to 16": padded(16),
    "float64": in_double,
}


def operands(inputs: int, width: int, block: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return bias [g, 1, o], rows [g, 2·block + 32, i] and weight [g, i, o] of one shape, the same in every run."""
    generator = torch.Generator().manual_seed(1000 * inputs + width)
    draw = lambda *shape: torch.randn(NETWORKS, *shape, generator=generator)  # noqa: E731
    return draw(1, width), draw(2 * block + 32, inputs), draw(inputs, width)


def depends(product: Product, inputs: int, width: int, block: int) -> bool:
    """Return whether any row at any offset has other bits than at offset 0."""
    bias, rows, weight = operands(inputs, width, block)
    first = product(bias, rows[:, :block].contiguous(), weight)
    return any(not torch.equal(product(bias, rows[:, s : s + block].contiguous(), weight)[:, : block - s], first[:, s:]) for s in OFFSETS)


def seconds(product: Product, block: int) -> float:
    """Return the median time of one pass over all widths at 20 inputs."""
    shapes = [operands(20, width, block) for width in WIDTHS]
    times = []
    for _ in range(REPETITIONS):
        began = time.perf_counter()
        for bias, rows, weight in shapes:
            product(bias, rows[:, :block], weight)
        times.append(time.perf_counter() - began)
    return median(times)


def rows_matter(count: int) -> list[tuple[int, int]]:
    """Return the shapes, padded to 4, in which a row of a block of ``count`` rows has other bits than in blocks of 128."""
    found = []
    for inputs in INPUTS:
        for width in (*WIDTHS, 500, 1000):
            bias, rows, weight = operands(inputs, width, 1024)
            usual = torch.cat([padded(4)(bias, block, weight) for block in torch.split(rows[:, :2048], 128, dim=1)], dim=1)
            other = [padded(4)(bias, rows[:, i : i + count], weight) for i in range(0, 2048 - count + 1, count)]
            if not torch.equal(torch.cat(other, dim=1), usual[:, : 2048 // count * count]):
                found.append((inputs, width))
    return found


def main() -> None:
    """Compare the candidates and print, or append, a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--block", type=int, default=128, help="rows of a block")
    parser.add_argument("--output", type=Path, help="Markdown file to append the table to")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    mode = os.environ.get("MKL_CBWR", "not set")
    lines = [f"## {processor()}, torch {torch.__version__}, MKL_CBWR {mode}, blocks of {arguments.block} rows, one thread", ""]
    lines += ["| product | shapes that depend on the position | of | widths concerned | time / plain |", "|---|---|---|---|---|"]
    base = 0.0
    for name, product in CANDIDATES.items():
        shapes = [(i, w) for i in INPUTS for w in WIDTHS]
        found = [(i, w) for i, w in shapes if depends(product, i, w, arguments.block)]
        taken = seconds(product, arguments.block)
        base = base or taken
        widths = ", ".join(map(str, sorted({w for _, w in found}))) or "none"
        lines.append(f"| {name} | {len(found)} | {len(shapes)} | {widths} | {taken / base:.2f} |")
        print(lines[-1], flush=True)
    lines += ["", "| rows of a block, padded to 4 | shapes with other bits than in blocks of 128 rows |", "|---|---|"]
    lines += [f"| {count:,} | {len(rows_matter(count))} of {len(INPUTS) * (len(WIDTHS) + 2)} |" for count in ROWS]
    text = "\n".join([*lines, ""])
    print(text)
    if arguments.output:
        with arguments.output.open("a", encoding="utf-8") as file:
            file.write(text + "\n")


if __name__ == "__main__":
    main()
