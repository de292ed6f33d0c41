#!/usr/bin/python3
"""Opens what chromamba writes with other people's readers (h5py, pyBigWig, samtools, tabix) and
compares the files with each other; watches that no file is seen before it is whole.

Usage: check_readers.py CHROMAMBA SOURCE_ROOT

Exits with 77 where a reader is missing.
"""
import gzip
import hashlib
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time

try:
    import h5py
    import numpy as np
    import pyBigWig
except ImportError as error:
    print("SKIPPED:", error)
    sys.exit(77)
for tool in ("samtools", "tabix"):
    if not shutil.which(tool):
        print("SKIPPED: no", tool)
        sys.exit(77)

CHROMAMBA = os.path.realpath(sys.argv[1])
DATA = os.path.join(os.path.realpath(sys.argv[2]), "test_data")
SMALL = ["-m", os.path.join(DATA, "mamba1_long")]


def run(*arguments):
    subprocess.run([CHROMAMBA, *map(str, arguments), "--quiet"], check=True)


def text(path):
    with (gzip.open if path.endswith(".gz") else open)(path, "rt", encoding="utf-8") as file:
        return file.read()


def table(path):
    rows = [line.split("\t") for line in text(path).splitlines() if not line.startswith("#")]
    return [dict(zip(rows[0], row)) for row in rows[1:]]


def same_floats(a, b):
    return np.array_equal(np.asarray(a, np.float32), np.asarray(b, np.float32), equal_nan=True)


def check_score():
    """One run, four files, one truth."""
    command = ["score", "lambda.fa", "-o", "a.h5", "-o", "a.bw", "-o", "a.bedgraph.gz", "-o", "a.tsv"]
    run(*command)
    with h5py.File("a.h5") as file:
        attributes = dict(file.attrs)
        assert list(file) == ["log_likelihood"], list(file)
        (contig, dataset), = file["log_likelihood"].items()
        assert contig == "NC_001416.1", contig
        assert dataset.dtype == np.float32 and dataset.shape == (48502,)
        at = dict(dataset.attrs)
        assert (at["contig"], at["start"], at["end"], at["bin"], at["strand"]) == (
            contig, 0, 48502, 1, "forward"), at
        values = dataset[()]
    assert math.isnan(values[0]) and not np.isnan(values[1:]).any() and (values[1:] < 0).all()

    with open(os.path.join(DATA, "human-d128", "model.safetensors"), "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    version = subprocess.run([CHROMAMBA, "--version"], check=True, capture_output=True, text=True)
    expected = {
        "format": "chromamba",
        "format_version": 1,
        "chromamba_version": version.stdout.split()[1],
        "command": "chromamba " + " ".join(command) + " --quiet",
        "model_sha256": digest,
        "model": "human-d128",
        "model_family": "mamba_ssm",
        "objective": "causal",
        "strand": "forward",
        "input": "lambda.fa",
        "dtype": "f32",
    }
    for name, value in expected.items():
        assert attributes.get(name) == value, (name, attributes.get(name), value)
    assert attributes["device"].startswith("cpu"), attributes["device"]

    # The published implementation's values for this model are checked elsewhere; here: the table.
    (row,) = table("a.tsv")
    mean = values[1:].astype(np.float64).mean()
    assert (row["contig"], row["length"], row["scored"]) == (contig, "48502", "48501"), row
    assert abs(float(row["mean_ln_p"]) - mean) < 1e-6, (row, mean)
    assert abs(float(row["perplexity"]) - math.exp(-mean)) < 1e-5, (row, math.exp(-mean))
    assert abs(float(row["bits_per_base"]) + mean / math.log(2)) < 1e-6, row
    for name, value in expected.items():
        if not name.startswith("format"):
            assert f"# {name}: {value}\n" in text("a.tsv"), name
            assert f"# {name}: {value}\n" in text("a.bedgraph.gz"), name

    with pyBigWig.open("a.bw") as file:
        assert file.isBigWig() and not file.isBigBed()
        assert dict(file.chroms()) == {contig: 48502}, file.chroms()
        header = file.header()
        assert header["nBasesCovered"] == 48501 and header["nLevels"] >= 3, header
        assert abs(header["sumData"] - values[1:].astype(np.float64).sum()) <= 48501, header
        assert same_floats(file.values(contig, 0, 48502), values)
        (exact,) = file.stats(contig, 0, 48502, exact=True)
        assert abs(exact - mean) < 1e-4, (exact, mean)
        bins = file.stats(contig, 0, 48502, nBins=16)  # from the zoom levels
        parts = [part[~np.isnan(part)].mean() for part in np.array_split(values, 16)]
        assert np.allclose(bins, parts, atol=0.02), (bins, parts)
        low, high = file.stats(contig, type="min")[0], file.stats(contig, type="max")[0]
        assert abs(low - np.nanmin(values)) < 1e-5 and abs(high - np.nanmax(values)) < 1e-5

    rows = [line.split("\t") for line in text("a.bedgraph.gz").splitlines() if line[0] != "#"]
    assert [int(r[1]) for r in rows] == list(range(1, 48502))
    assert all(r[0] == contig and int(r[2]) == int(r[1]) + 1 for r in rows)
    assert same_floats([float(r[3]) for r in rows], values[1:])
    subprocess.run(["tabix", "-p", "bed", "a.bedgraph.gz"], check=True)
    found = subprocess.run(["tabix", "a.bedgraph.gz", contig + ":1001-1005"], check=True,
                           capture_output=True, text=True).stdout.splitlines()
    assert found == ["\t".join(r) for r in rows[999:1004]], found


def check_strands_and_regions():
    run("score", "ref.fa", *SMALL, "--strand", "both", "-o", "b.h5", "-o", "b.bw", "-o", "b.tsv",
        "-o", "b.bedgraph")
    rows = {(r["contig"], r["strand"]): r for r in table("b.tsv")}
    with h5py.File("b.h5") as file, pyBigWig.open("b.bw") as track:
        for contig, length in (("chrA", 7003), ("chrB", 12345), ("chrC", 1), ("chrD", 61)):
            groups = {"both": "", "forward": "_forward", "reverse": "_reverse"}
            for strand, suffix in groups.items():
                dataset = file["log_likelihood" + suffix][contig]
                assert dataset.attrs["strand"] == strand and dataset.shape == (length,)
                known = dataset[()][~np.isnan(dataset[()])].astype(np.float64)
                row = rows[contig, strand]
                assert int(row["scored"]) == len(known), row
                if len(known):
                    assert abs(float(row["perplexity"]) / math.exp(-known.mean()) - 1) < 1e-6, row
            mean = file["log_likelihood"][contig][()]
            assert same_floats(track.values(contig, 0, length), mean), contig
            lines = [line.split("\t") for line in text("b.bedgraph").splitlines()]
            lines = [line for line in lines if line[0] == contig]
            known = np.nonzero(~np.isnan(mean))[0]
            assert [int(line[1]) for line in lines] == list(known)
            assert same_floats([float(line[3]) for line in lines], mean[known])
        genome = subprocess.run(["samtools", "faidx", "ref.fa", "chrA"], check=True,
                                capture_output=True, text=True).stdout.split("\n", 1)[1]
        unknown = np.array([base == "N" for base in genome.replace("\n", "")])
        assert np.isnan(file["log_likelihood/chrA"][()][unknown]).all()

    run("score", "ref.fa", *SMALL, "-R", "good.bed", "-o", "c.h5", "-o", "c.bw")
    with h5py.File("c.h5") as file, pyBigWig.open("c.bw") as track:
        regions = {name: list(column.asstr()[()] if column.dtype == object else column[()])
                   for name, column in file["regions"].items()}
        assert regions["name"] == ["promoter", "gene one", "tiny"], regions
        assert regions["contig"] == ["chrB", "chrA", "chrB"], regions
        assert regions["start"] == [100, 3990, 5000] and regions["end"] == [1100, 4200, 5010], regions
        assert track.chroms() == {"chrA": 7003, "chrB": 12345, "chrC": 1, "chrD": 61}
        for contig, start, end in zip(regions["contig"], regions["start"], regions["end"]):
            values = file["log_likelihood"][f"{contig}:{start + 1}-{end}"][()]
            assert same_floats(track.values(contig, int(start), int(end)), values)
        assert np.isnan(track.values("chrB", 1100, 5000)).all()


def check_embed():
    run("embed", "ref.fa", *SMALL, "-o", "d.h5")
    with h5py.File("d.h5") as file:
        assert {name: d.shape for name, d in file["embedding"].items()} == {
            "chrA": (7003, 32), "chrB": (12345, 32), "chrC": (1, 32), "chrD": (61, 32)}
        assert all(d.dtype == np.float16 for d in file["embedding"].values())
        assert not np.isnan(file["embedding/chrB"][()]).any()
        assert file.attrs["layer"] == "final" and file.attrs["pooling"] == "none"
        assert file.attrs["format"] == "chromamba"
        with open(os.path.join(DATA, "mamba1_long", "model.safetensors"), "rb") as weights:
            assert file.attrs["model_sha256"] == hashlib.sha256(weights.read()).hexdigest()
    run("embed", "ref.fa", *SMALL, "-o", "e.h5", "--pool", "mean", "--dtype-out", "f32",
        "--layer", "2", "--compress", "5", "--no-version")
    with h5py.File("e.h5") as file:
        pooled = file["embedding"]
        assert pooled.shape == (4, 32) and pooled.dtype == np.float32
        assert pooled.compression == "gzip" and pooled.compression_opts == 5 and pooled.shuffle
        assert list(file["regions/name"].asstr()) == ["chrA", "chrB", "chrC", "chrD"]
        assert list(file["regions/end"]) == [7003, 12345, 1, 61]
        assert file.attrs["layer"] == "2" and file.attrs["pooling"] == "mean"
        assert "command" not in file.attrs and "chromamba_version" not in file.attrs


def check_nothing_is_seen_early():
    os.mkdir("watched")
    names = {"x.h5", "x.bw", "x.bedgraph.gz", "x.tsv"}
    outputs = [word for name in sorted(names) for word in ("-o", "watched/" + name)]
    with subprocess.Popen([CHROMAMBA, "score", "lambda.fa", "-q", "--chunk-size", "1000"] + outputs) as job:
        looks = 0
        sizes = {}  # of each file when its final name was first seen
        while job.poll() is None and not sizes:
            sizes = {name: os.path.getsize("watched/" + name)
                     for name in names & set(os.listdir("watched"))}
            looks += 1
            time.sleep(0.002)
        assert job.wait() == 0
    assert looks > 50, looks
    for name, size in sizes.items():
        assert size == os.path.getsize("watched/" + name), f"{name} was seen with {size} bytes"
    assert set(os.listdir("watched")) == names, os.listdir("watched")
    with h5py.File("watched/x.h5") as new, h5py.File("a.h5") as old:
        (a,), (b,) = new["log_likelihood"].values(), old["log_likelihood"].values()
        assert same_floats(a[()], b[()])


def main():
    with tempfile.TemporaryDirectory(prefix="chromamba_readers.") as folder:
        maker = os.path.join(os.path.dirname(os.path.realpath(__file__)), "make_inputs.py")
        subprocess.run([sys.executable, maker, folder, DATA], check=True)
        os.chdir(os.path.join(folder, "files"))
        for check in (check_score, check_strands_and_regions, check_embed, check_nothing_is_seen_early):
            started = time.monotonic()
            check()
            print(f"ok  {check.__name__}  {time.monotonic() - started:.1f} s")
        os.chdir("/")


if __name__ == "__main__":
    main()
