#!/usr/bin/python3
"""Compares HDF5 files that chromamba wrote. Bit for bit, unless said.

compare.py same A B            the same datasets with the same attributes and values
compare.py values A B          the same values of /embedding or /log_likelihood, whatever else they hold
compare.py slices WHOLE PART   each region of PART is that stretch of its contig in WHOLE
compare.py shifted SUB PART N  ... and SUB holds contigs cut off before base N (0-based)
compare.py mirror A B          A, from reverse complements, is B read backwards
compare.py mirror_region A B   the same for files of one region each, whatever they are called
compare.py both BOTH F R       BOTH holds the values of F, of R and their mean
compare.py halves BOTH F R     rows of BOTH are those of F beside those of R turned round
compare.py bins BASES BINS     rows of BINS are means of rows of BASES (to 1e-6)
compare.py pooled BASES POOL   rows of POOL are means of whole datasets of BASES (to 1e-6)
compare.py half F32 F16        F16 is F32 rounded to binary16

Exits with 1 and says what differs.
"""
import sys
import warnings

import h5py
import numpy as np


def datasets(file, group=None):
    found = {}

    def visit(name, node):
        if isinstance(node, h5py.Dataset) and (group is None or name.split("/")[0] == group):
            found[name] = node

    file.visititems(visit)
    if not found:
        sys.exit(f"{file.filename}: no datasets in {group or 'the file'}")
    return found


def main_group(file):
    return "embedding" if "embedding" in file else "log_likelihood"


def require(condition, text):
    if not condition:
        sys.exit(text)


def require_equal(a, b, what):
    a, b = np.asarray(a), np.asarray(b)
    require(a.dtype == b.dtype, f"{what}: types {a.dtype} and {b.dtype}")
    require(a.shape == b.shape, f"{what}: shapes {a.shape} and {b.shape}")
    if a.dtype == object:
        require((a == b).all(), f"{what}: texts differ")
        return
    kind = f"u{a.dtype.itemsize}"
    different = np.ascontiguousarray(a).view(kind) != np.ascontiguousarray(b).view(kind)
    if different.any():
        first = tuple(int(i[0]) for i in np.nonzero(different))
        sys.exit(f"{what}: {different.sum()} of {different.size} values differ, "
                 f"first at {first}: {a[first]} and {b[first]}")


def require_close(a, b, what):
    require(a.shape == b.shape, f"{what}: shapes {a.shape} and {b.shape}")
    scale = max(1.0, np.nanmax(np.abs(b), initial=0.0))
    require(np.allclose(a, b, rtol=0, atol=1e-6 * scale, equal_nan=True), f"{what}: values differ")


def same(a, b):
    left, right = datasets(a), datasets(b)
    require(list(left) == list(right), f"datasets {sorted(set(left) ^ set(right))} are in one only")
    for name, values in left.items():
        require(dict(values.attrs) == dict(right[name].attrs), f"{name}: attributes differ")
        require_equal(values[()], right[name][()], name)
    require(main_group(a) in a, "no values")


def values(a, b):
    group = main_group(a)
    left, right = datasets(a, group), datasets(b, group)
    require(list(left) == list(right), "the datasets differ")
    for name, rows in left.items():
        require_equal(rows[()], right[name][()], name)


def slices(whole, part):
    group = main_group(part)
    for name, values in datasets(part, group).items():
        at = values.attrs
        require(values.shape[0] == at["end"] - at["start"], f"{name}: {values.shape[0]} rows")
        expected = whole[group][at["contig"]][at["start"] : at["end"]]
        require_equal(values[()], expected, name)


def shifted(sub, part, first):
    group = main_group(part)
    for name, values in datasets(part, group).items():
        at = values.attrs
        start, end = at["start"] - int(first), at["end"] - int(first)
        require_equal(values[()], sub[group][at["contig"]][start:end], name)


def mirror(a, b):
    group = main_group(a)
    left, right = datasets(a, group), datasets(b, group)
    require(list(left) == list(right), "the contigs differ")
    for name, values in left.items():
        require_equal(values[()], right[name][()][::-1], name)


def mirror_region(a, b):
    group = main_group(a)
    (left,), (right,) = datasets(a, group).values(), datasets(b, group).values()
    require_equal(left[()], right[()][::-1], right.name)


def both(file, forward, reverse):
    group = main_group(file)
    for name, values in datasets(file, group).items():
        contig = name.split("/", 1)[1]
        f, r = forward[group][contig][()], reverse[group][contig][()]
        require_equal(file[group + "_forward"][contig][()], f, name + " forward")
        require_equal(file[group + "_reverse"][contig][()], r, name + " reverse")
        half = np.float32(0.5)
        mean = (half * (f.astype(np.float32) + r.astype(np.float32))).astype(f.dtype)
        if group == "log_likelihood":
            absent = np.isnan(mean)
            require_equal(np.isnan(values[()]), absent, name + " NaN")
            require_equal(values[()][~absent], mean[~absent], name + " mean")
        else:
            require_equal(values[()], mean, name + " mean")


def halves(file, forward, reverse):
    for name, rows in datasets(file, "embedding").items():
        width = forward[name].shape[1]
        require(rows.shape[1] == 2 * width, f"{name}: {rows.shape[1]} columns")
        require_equal(rows[:, :width], forward[name][()], name + " forward")
        require_equal(rows[:, width:][:, ::-1], reverse[name][()], name + " reverse")


def bins(bases, binned):
    for name, values in datasets(binned, "embedding").items():
        width = int(values.attrs["bin"])
        rows = bases[name][()].astype(np.float64)
        expected = [rows[i : i + width].mean(axis=0) for i in range(0, len(rows), width)]
        require_close(values[()], np.array(expected).reshape(-1, rows.shape[1]), name)


def pooled(bases, pool):
    names = pool["regions/name"].asstr()[()]
    require(len(names) == len(pool["embedding"]), "rows and regions differ in number")
    for row, (contig, start, end) in enumerate(zip(
            pool["regions/contig"].asstr()[()], pool["regions/start"][()], pool["regions/end"][()])):
        label = contig if contig in bases["embedding"] else f"{contig}:{start + 1}-{end}"
        rows = bases["embedding"][label][()].astype(np.float64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the mean of no rows is NaN, and should be
            require_close(pool["embedding"][row], rows.mean(axis=0), label)


def half(single, halved):
    for name, values in datasets(halved, "embedding").items():
        require(values.dtype == np.float16, f"{name}: type {values.dtype}")
        require(single[name].dtype == np.float32, f"{name}: type {single[name].dtype}")
        require_equal(values[()], single[name][()].astype(np.float16), name)


def main():
    modes = [same, values, slices, shifted, mirror, mirror_region, both, halves, bins, pooled, half]
    mode = {m.__name__: m for m in modes}.get(sys.argv[1] if len(sys.argv) > 1 else "")
    if mode is None:
        sys.exit(__doc__)
    mode(*[h5py.File(a, "r") if a.endswith(".h5") else a for a in sys.argv[2:]])


if __name__ == "__main__":
    main()
