#!/usr/bin/python3
"""Does the score mean anything? Real variants of human chromosome 20 against matched random changes,
and transitions at CpG sites against those elsewhere, with the built-in model.

Usage: variants_study.py CHROMAMBA SOURCE_ROOT [--controls N] [--sites N] [--seed N]

The real variants are the insertions and deletions of Debian's vt-examples, those of 10-15 Mb (held
out of the model's training) and all of them. Each is matched by N random changes of the same region:
an insertion or a deletion of the same length, at a place where the bases that come or go are
followed by a like number of copies of themselves (0, 1-2, 3 and more). The model sees more where an
allele resembles its surroundings, and indels are where repeats are: without the match the area under
the curve would be that of repeats. An area above 0.5 says that the model likes the real ones better.
The standard error is that of DeLong et al. 1988. Prints a table.
"""
import argparse
import math
import os
import random
import subprocess
import tempfile

EXAMPLES = "/usr/share/doc/vt/examples"
HELD_OUT = (10_000_000, 15_000_000)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("chromamba")
    parser.add_argument("source_root")
    parser.add_argument("--controls", type=int, default=1)
    parser.add_argument("--sites", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def area(positive, negative):
    """Area under the ROC curve of two samples, and its standard error (DeLong et al. 1988)."""
    above = lambda x, y: 1.0 if x > y else 0.5 if x == y else 0.0
    by_positive = [sum(above(x, y) for y in negative) / len(negative) for x in positive]
    by_negative = [sum(above(x, y) for x in positive) / len(positive) for y in negative]
    mean = sum(by_positive) / len(positive)
    variance = lambda values: sum((v - mean) ** 2 for v in values) / max(len(values) - 1, 1)
    error = math.sqrt(variance(by_positive) / len(positive) + variance(by_negative) / len(negative))
    return mean, error


def sequence(reference, start, end):
    text = subprocess.run(
        ["samtools", "faidx", reference, f"20:{start + 1}-{end}"],
        capture_output=True, text=True, check=True,
    ).stdout
    return "".join(text.split("\n")[1:]).upper()


def copies(bases, at, unit):
    """How often the unit follows itself from `at` on, as a class."""
    count = 0
    while bases.startswith(unit, at):
        count += 1
        at += len(unit)
    return 0 if count == 0 else 1 if count <= 2 else 2


def matched(bases, offset, pos, ref, alt, rng):
    """A random change like this one: (pos, ref, alt), or None."""
    at = pos - 1 - offset
    if len(ref) > len(alt):
        length = len(ref) - 1
        wanted = copies(bases, at + 1 + length, ref[1:])
    else:
        length = len(alt) - 1
        wanted = copies(bases, at + 1, alt[1:])
    for _ in range(200_000):
        other = rng.randrange(1000, len(bases) - 2000)
        near = bases[other : other + 4 * length + 4]
        if "N" in near:
            continue
        if len(ref) > len(alt):
            unit = bases[other + 1 : other + 1 + length]
            if copies(bases, other + 1 + length, unit) == wanted:
                return other + 1 + offset, bases[other] + unit, bases[other]
            continue
        unit = bases[other + 1 : other + 1 + length]
        if wanted == 0:
            unit = "".join(rng.sample(alt[1:], length))
        if copies(bases, other + 1, unit) == wanted:
            return other + 1 + offset, bases[other], bases[other] + unit
    return None


def score(chromamba, reference, changes, folder):
    """CM_LLR of (pos, ref, alt) on contig 20, in their order."""
    path = os.path.join(folder, "changes.vcf")
    with open(path, "w", encoding="ascii") as file:
        file.write("##fileformat=VCFv4.2\n##contig=<ID=20>\n")
        file.write("#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n")
        for pos, ref, alt in changes:
            file.write(f"20\t{pos}\t.\t{ref}\t{alt}\t.\t.\t.\n")
    out = os.path.join(folder, "changes.tsv")
    subprocess.run(
        [chromamba, "variants", path, "-f", reference, "-o", out, "--left-context", "16384", "-q"],
        check=True,
    )
    with open(out, encoding="ascii") as file:
        rows = [line.rstrip("\n").split("\t") for line in file if line[0] != "#"]
    at = rows[0].index("llr")
    return [float("nan") if row[at] == "." else float(row[at]) for row in rows[1:]]


def real_variants():
    text = subprocess.run(
        ["bcftools", "view", "-H", f"{EXAMPLES}/normalize/01_OUT.vcf.gz"],
        capture_output=True, text=True, check=True,
    ).stdout
    for line in text.split("\n"):
        columns = line.split("\t")
        if len(columns) < 5 or "," in columns[4] or columns[0] != "20":
            continue
        pos, ref, alt = int(columns[1]), columns[3].upper(), columns[4].upper()
        if (len(ref) == 1) != (len(alt) == 1) and ref[0] == alt[0]:
            yield pos, ref, alt


def indels(options, reference, folder, span, rng):
    start, end = span
    bases = sequence(reference, start, end)
    pairs = []
    for pos, ref, alt in real_variants():
        if not start + 5000 < pos < end - 5000:
            continue
        controls = [matched(bases, start, pos, ref, alt, rng) for _ in range(options.controls)]
        if all(controls):
            pairs.append(((pos, ref, alt), controls))
    changes = [real for real, _ in pairs] + [c for _, controls in pairs for c in controls]
    scores = score(options.chromamba, reference, changes, folder)
    return scores[: len(pairs)], scores[len(pairs) :]


def transitions(options, reference, folder, rng):
    """C>T and G>A in the held-out megabases: at CpG, elsewhere."""
    start, end = HELD_OUT[0], HELD_OUT[0] + 1_000_000
    bases = sequence(reference, start, end)
    kinds = {True: [], False: []}
    while min(map(len, kinds.values())) < options.sites:
        at = rng.randrange(1000, len(bases) - 1000)
        base = bases[at]
        if base not in "CG":
            continue
        cpg = bases[at + 1] == "G" if base == "C" else bases[at - 1] == "C"
        if len(kinds[cpg]) < options.sites:
            kinds[cpg].append((start + at + 1, base, "T" if base == "C" else "A"))
    scores = score(options.chromamba, reference, kinds[True] + kinds[False], folder)
    return scores[: options.sites], scores[options.sites :]


def main():
    options = arguments()
    script = os.path.join(options.source_root, "tests", "data_chr20.sh")
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="chromamba_study.") as folder:
        reference = subprocess.run(
            ["bash", script, folder], capture_output=True, text=True, check=True
        ).stdout.strip()
        rows = [
            ("indels of chr20:10-15 Mb (held out) against matched ones",
             indels(options, reference, folder, HELD_OUT, rng)),
            ("indels of chr20 against matched ones",
             indels(options, reference, folder, (60_000, 62_960_000), rng)),
            ("C>T, G>A of chr20:10-11 Mb: CpG against others",
             transitions(options, reference, folder, rng)),
        ]
    print("comparison\tn\tcontrols\tmean LLR\tof controls\tAUROC\tstandard error")
    for name, (positive, negative) in rows:
        positive = [x for x in positive if not math.isnan(x)]
        negative = [x for x in negative if not math.isnan(x)]
        mean, error = area(positive, negative)
        print(f"{name}\t{len(positive)}\t{len(negative)}\t{sum(positive) / len(positive):.2f}\t"
              f"{sum(negative) / len(negative):.2f}\t{mean:.3f}\t{error:.3f}")


main()
