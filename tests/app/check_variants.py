#!/usr/bin/python3
"""Variants as a user scores them: every record in comes out, with the values that full runs of
edited contigs give, and other people's tools (bcftools, cyvcf2, h5py) read the result.

Usage: check_variants.py CHROMAMBA SOURCE_ROOT

Exits with 77 where a reader is missing.
"""
import gzip
import math
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile

try:
    import cyvcf2
    import h5py
    import numpy as np
except ImportError as error:
    print("SKIPPED:", error)
    sys.exit(77)
if not shutil.which("bcftools"):
    print("SKIPPED: no bcftools")
    sys.exit(77)

CHROMAMBA = os.path.realpath(sys.argv[1])
ROOT = os.path.realpath(sys.argv[2])
DATA = os.path.join(ROOT, "test_data")
SMALL = ["-m", os.path.join(DATA, "mamba1_long")]
MASKED = ["-m", os.path.join(DATA, "caduceus_ph")]
EQUIVARIANT = ["-m", os.path.join(DATA, "caduceus_ps")]
EXAMPLES = "/usr/share/doc/vt/examples"
COMPLEMENT = str.maketrans("ACGTN", "TGCAN")


def chromamba(*arguments, stdin=None):
    result = subprocess.run(
        [CHROMAMBA, *map(str, arguments), "--quiet"], stdin=stdin, capture_output=True, check=False
    )
    if result.returncode:
        sys.exit(f"exit code {result.returncode}: {arguments}\n{result.stderr.decode()}")
    return result.stdout


def variants(*arguments, stdin=None):
    return chromamba("variants", *arguments, stdin=stdin)


def write(path, text):
    with open(path, "w", encoding="ascii", newline="") as file:
        file.write(text)
    return path


def lines_of(path):
    data = open(path, "rb").read()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    return data.decode().split("\n")


def records_of(lines):
    return [line for line in lines if line and not line.startswith("#")]


def without_ours(line):
    """A record as it was before: its INFO without the fields that chromamba adds."""
    columns = line.rstrip("\r").split("\t")
    fields = [f for f in columns[7].split(";") if not f.startswith("CM_")]
    columns[7] = ";".join(fields) or "."
    return "\t".join(columns) + ("\r" if line.endswith("\r") else "")


def info(line, name):
    for field in line.rstrip("\r").split("\t")[7].split(";"):
        key, _, value = field.partition("=")
        if key == name:
            return value.split(",")
    return None


def check_round_trip(source, output):
    """Every record of `source` is in `output`, byte for byte but for our INFO, in order; so is
    every line of the header."""
    before, after = lines_of(source), lines_of(output)
    assert len(records_of(before)) == len(records_of(after)), (source, output)
    for old, new in zip(records_of(before), records_of(after)):
        assert without_ours(new) == without_ours(old), f"{source}:\n{old}\n{new}"
    head = [line for line in before if line.startswith("##") and "ID=CM_" not in line]
    kept = [line for line in after if line.startswith("##")]
    assert [line for line in kept if line in set(head)] == head, source


def read_by_others(path, reference=None):
    """bcftools and cyvcf2 read the file and see as many records."""
    count = len(records_of(lines_of(path))) if not path.endswith(".bcf") else None
    view = subprocess.run(["bcftools", "view", "-H", path], capture_output=True, check=True)
    seen = view.stdout.count(b"\n")
    assert count is None or seen == count, path
    assert sum(1 for _ in cyvcf2.VCF(path)) == seen, path
    if reference:
        subprocess.run(
            ["bcftools", "norm", "--check-ref", "w", "-f", reference, "-o", "/dev/null", path],
            capture_output=True,
            check=True,
        )
    return seen


HEADER = """##fileformat=VCFv4.2
##INFO=<ID=END,Number=1,Type=Integer,Description="End">
##INFO=<ID=SVLEN,Number=A,Type=Integer,Description="Length">
##INFO=<ID=SVTYPE,Number=1,Type=String,Description="Type">
##INFO=<ID=AF,Number=A,Type=Float,Description="Frequency">
##INFO=<ID=CM_LLR,Number=A,Type=Float,Description="of an earlier run">
##FILTER=<ID=q10,Description="low">
##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">
##contig=<ID=one,length=3000>
##contig=<ID=two,length=400>
##contig=<ID=away,length=1000>
#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tS1\tS2
"""


def odd_records(one, two):
    """(CHROM, POS, REF, ALT, INFO, the CM_STATUS of each ALT) of one record of every odd kind."""
    other = {"A": "G", "C": "T", "G": "A", "T": "C", "N": "A"}
    at = lambda bases, pos, n=1: bases[pos - 1 : pos - 1 + n]
    snv = lambda bases, pos: (at(bases, pos), other[at(bases, pos)])
    return [
        ("one", 1, *snv(one, 1), "AF=0.5", [""]),
        ("one", 1, at(one, 1, 3), at(one, 1), ".", [""]),
        ("one", 10, at(one, 10), "A,C,G,T,*", "AF=0.1,0.2,0.3,0.4,.", "acgt"),
        ("one", 20, at(one, 20), ".", ".", []),
        ("one", 21, at(one, 21), "<DEL>", "SVTYPE=DEL;END=40", [""]),
        ("one", 21, at(one, 21), "<DEL>", "SVTYPE=DEL;SVLEN=-19;END=40", [""]),
        ("one", 22, at(one, 22), "<DEL>", "SVTYPE=DEL", ["SYMBOLIC"]),
        ("one", 22, at(one, 22), "<DUP>", "SVTYPE=DUP;END=50", ["SYMBOLIC"]),
        ("one", 22, at(one, 22), "<INV>", "SVTYPE=INV;END=50", [""]),
        ("one", 23, at(one, 23), "<DEL>", "SVTYPE=DEL;END=99999999", ["OFF_CONTIG"]),
        ("one", 24, at(one, 24), f"{at(one, 24)}[two:10[", "SVTYPE=BND", ["BREAKEND"]),
        ("one", 24, at(one, 24), f".{at(one, 24)}", "SVTYPE=BND", ["BREAKEND"]),
        ("one", 30, at(one, 30).lower(), other[at(one, 30)].lower(), ".", [""]),
        ("one", 31, "R" if at(one, 31) in "AG" else "Y", "T" if at(one, 31) != "T" else "A", ".",
         ["NON_ACGT"]),
        ("one", 32, at(one, 32), "N", ".", ["NON_ACGT"]),
        ("one", 33, other[at(one, 33)], at(one, 33), ".", ["REF_MISMATCH"]),
        ("one", 33, at(one, 33), at(one, 33), ".", ["NO_CHANGE"]),
        ("one", 50, at(one, 50, 30), at(one, 50), ".", [""]),
        ("one", 50, at(one, 50, 30), at(one, 50), ".", [""]),
        ("one", 55, *snv(one, 55), "CM_LLR=7;AF=0.25", [""]),
        ("one", 1000, at(one, 1000, 5), "ACGTACGTTT", ".", [""]),
        ("one", 1500, at(one, 1500), at(one, 1500) + "ACG" * 50, ".", [""]),
        ("one", 2990, at(one, 2990), at(one, 2990) + "A" * 20000, ".", ["TOO_LONG"]),
        ("one", 2999, at(one, 2999, 2) + "AAAA", "A", ".", ["OFF_CONTIG"]),
        ("one", 3000, *snv(one, 3000), ".", [""]),
        ("one", 3000, at(one, 3000), at(one, 3000) + "GG", ".", [""]),
        ("two", 100, *snv(two, 100), ".", [""]),
        ("two", 199, *snv(two, 199), ".", [""]),
        ("two", 200, "N", "A", ".", ["NON_ACGT"]),
        ("two", 204, *snv(two, 204), ".", [""]),
        ("away", 5, "A", "C", ".", ["NO_CONTIG"]),
    ]


def make_vcf(path, records):
    text = HEADER
    for number, (chrom, pos, ref, alt, fields, _) in enumerate(records):
        text += f"{chrom}\t{pos}\tid{number}\t{ref}\t{alt}\t0.50\tPASS\t{fields}\tGT\t0|1\t./.\n"
    return write(path, text)


def fasta(path, contigs):
    return write(path, "".join(f">{name}\n{bases}\n" for name, bases in contigs))


def log_p(path, strand):
    """ln p of each base of a FASTA of one contig, in the order in which the strand is read."""
    out = path + ".h5"
    chromamba("score", path, *SMALL, "--strand", strand, "-o", out)
    with h5py.File(out) as file:
        values = next(iter(file["log_likelihood"].values()))[:]
    return values if strand == "forward" else values[::-1]


def brute_force(bases, pos, ref, alt, right, strand):
    start = pos - 1
    edited = bases[:start] + alt + bases[start + len(ref) :]
    a = log_p(fasta("edited.fa", [("x", edited)]), strand)
    b = log_p(fasta("unedited.fa", [("x", bases)]), strand)
    if strand == "reverse":
        start = len(bases) - start - len(ref)
    total = lambda values, n: float(np.nansum(values[start : start + n + right].astype(float)))
    return total(a, len(alt)) - total(b, len(ref))


def check_odd_records():
    rng = random.Random(5)
    one = "".join(rng.choices("ACGT", k=3000))
    two = "".join(rng.choices("ACGT", k=199)) + "NNNN" + "".join(rng.choices("ACGT", k=197))
    reference = fasta("ref.fa", [("one", one), ("two", two)])
    records = odd_records(one, two)
    source = make_vcf("odd.vcf", records)
    variants(source, "-f", reference, *SMALL, "-o", "out.vcf", "--left-context", "full")
    check_round_trip(source, "out.vcf")
    out = records_of(lines_of("out.vcf"))
    checked = 0
    for (chrom, pos, ref, alt, _, wanted), line in zip(records, out):
        alts = [] if alt == "." else alt.split(",")
        if wanted == "acgt":
            wanted = ["NO_CHANGE" if a == ref else "" for a in alts[:4]] + ["SPANNING_DELETION"]
        status = info(line, "CM_STATUS") or ["."] * len(alts)
        assert [s.replace(".", "") for s in status] == wanted, line
        llr = info(line, "CM_LLR") or ["."] * len(alts)
        assert len(llr) == len(alts) and line.count("CM_LLR=") <= 1, line
        for value, code, allele in zip(llr, wanted, alts):
            assert (value == ".") == (code != ""), line
            if value == "." or allele.startswith("<") or checked == 12:
                continue
            checked += 1
            bases = one if chrom == "one" else two
            both = [
                brute_force(bases, pos, ref.upper(), allele.upper(), 256, strand)
                for strand in ("forward", "reverse")
            ]
            index = alts.index(allele)
            found = [float(info(line, f"CM_LLR_{s}")[index]) for s in ("FWD", "REV")]
            assert np.allclose(found, both, atol=1e-3), (line, both)
            assert math.isclose(float(value), sum(found) / 2, abs_tol=1e-3), line
    assert checked == 12
    # A symbolic deletion is its sequence change.
    symbolic = next(line for line in out if "END=40" in line)
    both = brute_force(one, 21, one[20:40], one[20], 256, "forward")
    assert math.isclose(float(info(symbolic, "CM_LLR_FWD")[0]), both, abs_tol=1e-3), symbolic
    read_by_others("out.vcf")
    # norm refuses what does not fit the reference's contigs.
    fits = [line for line in lines_of("out.vcf") if line[:1] == "#" or not re.search("_CONTIG|END=9999", line)]
    read_by_others(write("fits.vcf", "\n".join(fits)), reference)
    return source, reference


def check_forms(source, reference):
    """The same values whatever the form of the input and the output and the order of records."""
    plain = records_of(lines_of("out.vcf"))
    options = ["-f", reference, *SMALL, "--left-context", "full"]
    with open(source, "rb") as file:
        piped = variants("-", *options, stdin=file).decode()
    assert records_of(piped.split("\n")) == plain
    variants(source, *options, "-o", "out.vcf.gz", "-o", "out.tsv")
    assert records_of(lines_of("out.vcf.gz")) == plain
    rows = [line.split("\t") for line in lines_of("out.tsv") if line and line[0] != "#"]
    assert rows[0][:5] == ["contig", "pos", "id", "ref", "alt"], rows[0]
    by_id = {}
    for row in rows[1:]:
        by_id.setdefault(row[2], []).append(row)
    assert len(by_id) == len(plain)
    for line in plain:
        columns = line.split("\t")
        llr = info(line, "CM_LLR") or ["."] * len(columns[4].split(","))
        assert [row[5] for row in by_id[columns[2]]] == llr, line

    order = list(range(len(plain)))
    random.Random(3).shuffle(order)
    head = [line for line in lines_of(source) if line.startswith("#")]
    body = records_of(lines_of(source))
    write("shuffled.vcf", "\n".join(head + [body[i] for i in order]) + "\n")
    variants("shuffled.vcf", *options, "-o", "shuffled_out.vcf")
    assert records_of(lines_of("shuffled_out.vcf")) == [plain[i] for i in order]

    # An END far beyond its contig cannot be indexed.
    clean = [line for line in body if "END=99999999" not in line]
    write("clean.vcf", "\n".join(head + clean) + "\n")
    subprocess.run(["bcftools", "view", "-o", "clean.bcf", "-Ob", "clean.vcf"], check=True)
    variants("clean.bcf", *options, "-o", "clean_out.bcf", "--write-index")
    assert os.path.exists("clean_out.bcf.csi")
    seen = read_by_others("clean_out.bcf")
    assert seen == len(clean)
    ids = {line.split("\t")[2]: line for line in plain}
    for record in cyvcf2.VCF("clean_out.bcf"):
        wanted = info(ids[record.ID], "CM_LLR")
        if wanted is None:
            assert record.INFO.get("CM_LLR") is None
            continue
        found = record.INFO.get("CM_LLR")
        found = [found] if isinstance(found, float) else list(found)
        for value, text in zip(found, wanted):
            assert (value is None) if text == "." else math.isclose(value, float(text), rel_tol=1e-5)
    again = subprocess.run(
        ["bcftools", "view", "-H", "-r", "two:100-100", "clean_out.bcf"],
        capture_output=True, check=True,
    ).stdout
    assert again.count(b"\n") == 1


def check_saturation(reference):
    bases = lines_of(reference)[1]
    variants("--saturate", "one:101-160", "-f", reference, *SMALL, "-o", "sat.h5", "-o", "sat.vcf",
             "--embedding-change", "--per-base", "each.h5")
    with h5py.File("sat.h5") as file:
        matrix = file["llr/one:101-160"][:]
        assert matrix.shape == (60, 4)
        assert file["llr/one:101-160"].attrs["start"] == 100
        assert "model_sha256" in file.attrs and "left_context" in file.attrs
        both = (file["llr_forward/one:101-160"][:] + file["llr_reverse/one:101-160"][:]) / 2
    assert np.allclose(matrix, both, atol=1e-4)
    records = records_of(lines_of("sat.vcf"))
    assert len(records) == 60
    for row, line in zip(matrix, records):
        columns = line.split("\t")
        assert columns[3] == bases[int(columns[1]) - 1]
        assert row["ACGT".index(columns[3])] == 0
        for alt, value in zip(columns[4].split(","), info(line, "CM_LLR")):
            assert math.isclose(row["ACGT".index(alt)], float(value), rel_tol=1e-5, abs_tol=1e-6)
        assert len(info(line, "CM_EMB_COS")) == 3
    with h5py.File("each.h5") as file:
        delta = file["delta_forward"][:]
        assert delta.shape == (180, 257)
        assert [a.decode() for a in file["alleles/alt"][:3]] == records[0].split("\t")[4].split(",")
        found = [float(v) for line in records for v in info(line, "CM_LLR_FWD")]
        assert np.allclose(np.nansum(delta, axis=1), found, atol=1e-3)
    for model in (MASKED, EQUIVARIANT):
        variants("--saturate", "one:101-103", "-f", reference, *model, "-o", "sat.vcf",
                 "--window", "64")
        line = records_of(lines_of("sat.vcf"))[0]
        assert all(math.isfinite(float(v)) for v in info(line, "CM_LLR"))
        assert (info(line, "CM_LLR_FWD") is None) == (model is EQUIVARIANT)


def check_examples():
    """The VCFs of Debian's vt-examples, where they are installed."""
    if not os.path.exists(f"{EXAMPLES}/ref/20.fa.gz"):
        print("SKIPPED: the records of vt-examples (not installed)")
        return
    here = os.path.join(ROOT, "tests", "data_chr20.sh")
    reference = subprocess.run(
        ["bash", here, "chr20"], capture_output=True, check=True, text=True
    ).stdout.strip()
    for folder, _, names in sorted(os.walk(EXAMPLES)):
        for name in sorted(names):
            if not name.endswith((".vcf", ".vcf.gz")):
                continue
            source = os.path.join(folder, name)
            # The small model and a short context: it is the records that count here.
            variants(source, "-f", reference, *SMALL, "-o", "example.vcf", "--left-context", "512",
                     "--right-context", "16")
            check_round_trip(source, "example.vcf")
            on_20 = all(line.startswith("20\t") for line in records_of(lines_of(source)))
            read_by_others("example.vcf", reference if on_20 else None)
            scored = [line for line in records_of(lines_of("example.vcf")) if info(line, "CM_LLR")]
            print(f"{name}: {len(records_of(lines_of(source)))} records, {len(scored)} scored")


def main():
    with tempfile.TemporaryDirectory(prefix="chromamba_variants.") as folder:
        os.chdir(folder)
        source, reference = check_odd_records()
        check_forms(source, reference)
        check_saturation(reference)
        check_examples()
    print("variants: all as they should be")


main()
