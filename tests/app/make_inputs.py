#!/usr/bin/python3
"""Inputs of the command-line tests: sequences, BED files and checkpoints, good and bad.

Usage: make_inputs.py FOLDER TEST_DATA

Writes FOLDER/files (copied beside every command) and FOLDER/models (read where they are).
Everything follows from a seed; only Python's standard library is needed.
"""
import gzip
import io
import json
import os
import pickle
import random
import shutil
import struct
import sys
import zipfile
import zlib

COMPLEMENT = str.maketrans("ACGTN", "TGCAN")
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360606060000000050001a5f64540"
    "0000000049454e44ae426082"
)


def bgzip(data, block_bytes=4096, end_block=True):
    """bgzip as samtools' hts-specs define it; small blocks, so that small files have several."""
    blocks = []
    pieces = [data[i : i + block_bytes] for i in range(0, len(data), block_bytes)]
    for piece in pieces + ([b""] if end_block else []):
        deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
        body = deflate.compress(piece) + deflate.flush()
        head = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x06\0BC\x02\0" + struct.pack("<H", len(body) + 25)
        blocks.append(head + body + struct.pack("<II", zlib.crc32(piece), len(piece)))
    return b"".join(blocks)


def fasta(contigs, width=60, end=b"\n"):
    lines = []
    for header, bases in contigs:
        lines.append(b">" + header.encode())
        step = width or max(len(bases), 1)
        lines += [bases[i : i + step].encode() for i in range(0, len(bases), step)]
    return end.join(lines) + end


def make_variants(put, contigs):
    """Variant files on the contigs of ref.fa, good and broken."""
    bases = dict(contigs)
    head = "##fileformat=VCFv4.2\n"
    named = "".join(f"##contig=<ID={name},length={len(text)}>\n" for name, text in contigs)
    columns = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    change = {"A": "C", "C": "G", "G": "T", "T": "A", "N": "A"}

    def record(contig, pos, ref=None, alt=None, info="."):
        ref = ref or bases[contig][pos - 1]
        return f"{contig}\t{pos}\t.\t{ref}\t{alt or change[ref[0]]}\t.\t.\t{info}\n"

    some = "".join(record("chrB", pos) for pos in range(100, 12000, 700))
    some += record("chrA", 11) + record("chrC", 1) + record("chrD", 61)
    text = (head + named + columns + some).encode()
    put("some.vcf", text)
    put("some.vcf.gz", bgzip(text))
    put("no_contigs.vcf", (head + columns + some).encode())
    put("no_prefix.vcf", text.replace(b"chr", b""))
    put("no_records.vcf", (head + named + columns).encode())
    put("cut.vcf.gz", bgzip(text)[:-200])
    put("cut_end_block.vcf.gz", bgzip(text, end_block=False))
    put("headless.vcf", some.encode())
    put("columns.vcf", (head + named + columns + "chrA\t5\t.\tA\n").encode())
    put("bad_pos.vcf", text + b"chrA\tfive\t.\tA\tC\t.\t.\t.\n")
    put("unlisted.vcf", text + b"chrZ\t5\t.\tA\tC\t.\t.\t.\n")
    end = b'##INFO=<ID=END,Number=1,Type=Integer,Description="e">\n'
    ends = (head + named).encode() + end + columns.encode()
    put("bad_end.vcf", ends + record("chrB", 9, alt="<DEL>", info="END=x").encode())
    put("negative_end.vcf", ends + record("chrB", 9, alt="<DEL>", info="END=-7").encode())
    absent = text.replace(b"##contig=<ID=chrA", b"##contig=<ID=gone,length=9>\n##contig=<ID=chrA")
    called = columns.rstrip("\n") + "\tFORMAT\tS1\tS2\n"
    phased = [(101, "0|1", "."), (801, "1|1", "."), (901, "0/1", "."), (1501, "0|1", "7")]
    put("phased.vcf", (head + named + called + "".join(
        record("chrB", pos).rstrip("\n") + f"\tGT:PS\t{gt}:{ps}\t0|0:.\n"
        for pos, gt, ps in phased)).encode())
    put("absent.vcf", absent + b"gone\t5\t.\tA\tC\t.\t.\t.\n")
    put("mismatch.vcf", text + record("chrB", 200, change[bases["chrB"][199]],
                                      bases["chrB"][199]).encode())
    put("long.vcf", text + record("chrB", 300, alt="ACGT" * 2500000).encode()
        + record("chrD", 60, "ACGT" * 1000).encode())


def make_files(folder, rng):
    def bases(n):
        return "".join(rng.choices("ACGT", weights=(29, 21, 20, 30), k=n))

    def put(name, data):
        with open(os.path.join(folder, name), "wb") as file:
            file.write(data)

    chr_a = "N" * 10 + bases(4000) + "N" * 53 + bases(2940)  # 7,003 bases
    contigs = [("chrA", chr_a), ("chrB", bases(12345)), ("chrC", "G"), ("chrD", bases(61))]
    spoken = [(name + " a comment, with spaces", text) for name, text in contigs]
    canonical = fasta(contigs)
    put("ref.fa", canonical)
    put("named.fa", fasta(spoken))
    put("crlf.fa", fasta(contigs, end=b"\r\n"))
    put("lower.fa", fasta([(n, t[:99] + t[99:5000].lower() + t[5000:]) for n, t in contigs]))
    put("rna.fa", fasta([(n, t.replace("T", "U")) for n, t in contigs]))
    put("one_line.fa", fasta(contigs, width=0))
    put("no_last_newline.fa", canonical[:-1])
    put("blank_lines.fa", canonical.replace(b"\n>", b"\n\n>") + b"\n\n")
    put("ref.fa.gz", gzip.compress(canonical, mtime=0))
    half = len(canonical) // 2
    put("two_members.fa.gz",
        gzip.compress(canonical[:half], mtime=0) + gzip.compress(canonical[half:], mtime=0))
    put("ref.fa.bgz", bgzip(canonical))
    put("gzip_called.fa", gzip.compress(canonical, mtime=0))  # the content counts, not the name
    put("reversed.fa", fasta([(n, t.translate(COMPLEMENT)[::-1]) for n, t in contigs]))

    codes = list(chr_a)
    plain = list(chr_a)
    for k, code in enumerate("RYSWKMBDHVryx"):
        codes[500 * (k + 1) % 7000] = code
        plain[500 * (k + 1) % 7000] = "N"
    put("iupac.fa", fasta([("chrA", "".join(codes)), ("chrD", contigs[3][1])]))
    put("iupac_as_n.fa", fasta([("chrA", "".join(plain)), ("chrD", contigs[3][1])]))

    put("no_bases.fa", fasta([("none", ""), ("one", "A"), ("void", ""), ("all_n", "N" * 100),
                              ("some", bases(50)), ("last", "")]))
    put("many.fa", fasta([(f"tiny_{k}", bases(k % 41)) for k in range(2000)]))
    put("long.fa", fasta([("long", bases(60000) + "N" * 500 + bases(79501))], width=0))

    make_variants(put, contigs)

    # What cannot be read.
    put("empty.fa", b"")
    put("empty.fa.gz", gzip.compress(b"", mtime=0))
    put("picture.fa", PNG)
    put("reads.fq", b"@read1\nACGT\n+\nIIII\n")
    put("headless.fa", b"ACGTACGT\n")
    put("cut.fa.gz", gzip.compress(canonical, mtime=0)[:-2000])
    put("cut_in_block.fa.gz", bgzip(canonical)[:-3000])
    put("cut_end_block.fa.gz", bgzip(canonical, end_block=False))
    damaged = bytearray(bgzip(canonical))
    damaged[3000] ^= 0x55
    put("damaged.fa.gz", bytes(damaged))
    put("duplicate.fa", fasta([("chrA", "ACGT"), ("chrB", "ACGT"), ("chrA", "ACGT")]))
    put("nameless.fa", b">\nACGT\n")
    put("bad_base.fa", b">chrA\nACGT\nAC!T\n")
    put("uneven.fa", b">chrA\nACGTACGT\nACG\nACGTACGT\n")
    put("escape_up.fa", fasta([("../x", "ACGT" * 9)]))
    put("escape_root.fa", fasta([("/etc/x", "ACGT" * 9)]))
    put("escape_middle.fa", fasta([("a/../../x", "ACGT" * 9)]))

    put("good.bed", b"# a comment\nchrB\t100\t1100\tpromoter\nchrA\t3990\t4200\tgene one\n"
                    b"chrB\t5000\t5010\ttiny\n")
    put("start_after_end.bed", b"chrA\t0\t10\nchrA\t200\t100\n")
    put("start_is_end.bed", b"chrA\t200\t200\n")
    put("unknown_contig.bed", b"chrA\t0\t10\nchrZ\t0\t10\n")
    put("off_contig.bed", b"chrA\t7000\t7004\n")
    put("negative.bed", b"chrA\t-1\t10\n")
    put("two_columns.bed", b"chrA\t5\n")
    put("no_regions.bed", b"# nothing\n")
    put("overlapping.bed", b"chrB\t100\t200\nchrB\t199\t300\n")


def read_safetensors(path):
    with open(path, "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(size))
        data = file.read()
    header.pop("__metadata__", None)
    return {name: (entry, data[slice(*entry["data_offsets"])]) for name, entry in header.items()}


def safetensors(tensors, change_header=None):
    header = {"__metadata__": {"format": "pt"}}
    body = b""
    for name, (entry, data) in tensors.items():
        header[name] = dict(entry, data_offsets=[len(body), len(body) + len(data)])
        body += data
    if change_header:
        change_header(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


class RunsACommand:
    """Unpickled by Python, this leaves the file pickle_ran in the current folder."""

    def __reduce__(self):
        return (os.system, ("touch pickle_ran",))


def torch_zip(payload):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo("archive/data.pkl"), payload)
        archive.writestr(zipfile.ZipInfo("archive/version"), b"3\n")
    return data.getvalue()


def make_models(folder, test_data):
    source = os.path.join(test_data, "mamba1_long")
    tensors = read_safetensors(os.path.join(source, "model.safetensors"))
    with open(os.path.join(source, "config.json"), encoding="utf-8") as file:
        config = file.read()

    def put(name, files, config_text=config):
        path = os.path.join(folder, name)
        os.makedirs(path)
        if config_text is not None:
            files = dict(files, **{"config.json": config_text.encode()})
        for file_name, data in files.items():
            with open(os.path.join(path, file_name), "wb") as file:
                file.write(data)

    for name in ("mamba1_long", "mamba1_ref", "mamba1_hf", "caduceus_ph", "caduceus_ps",
                 "human-d128"):
        # Copied, not linked: some cases run as a user who may not read where the sources lie.
        shutil.copytree(os.path.join(test_data, name), os.path.join(folder, name))
    with open(os.path.join(folder, "caduceus_ps/tokenizer_config.json"), "w",
              encoding="utf-8") as file:
        file.write('{"model_max_length": 131072}')
    weights = "model.safetensors"
    good = safetensors(tensors)
    dropped = "backbone.layers.1.mixer.x_proj.weight"
    put("missing_tensor", {weights: safetensors({n: t for n, t in tensors.items() if n != dropped})})
    extra = dict(tensors)
    extra["backbone.layers.1.mixer.surprise.weight"] = tensors["backbone.layers.1.norm.weight"]
    put("extra_tensor", {weights: safetensors(extra)})
    bent = dict(tensors)
    entry, data = bent["backbone.layers.2.mixer.A_log"]
    bent["backbone.layers.2.mixer.A_log"] = (dict(entry, shape=[32, 32]), data)
    put("wrong_shape", {weights: safetensors(bent)})
    put("huge_header", {weights: struct.pack("<Q", 1 << 60) + good[8:]})
    put("cut_weights", {weights: good[:-1000]})
    put("empty_weights", {weights: b""})

    def overlap(header):
        first, second = "backbone.layers.0.norm.weight", "backbone.layers.1.norm.weight"
        header[second]["data_offsets"] = header[first]["data_offsets"]

    put("overlapping", {weights: safetensors(tensors, overlap)})
    payload = pickle.dumps({"backbone.embedding.weight": RunsACommand()}, protocol=2)
    put("pickle_zip", {"pytorch_model.bin": torch_zip(payload)})
    put("pickle_plain", {"pytorch_model.bin": payload})
    put("no_config", {weights: good}, config_text=None)
    put("bad_config", {weights: good}, config_text='{"d_model": 32,')
    put("other_family", {weights: good}, config_text='{"model_type": "llama", "hidden_size": 32}')
    put("hybrid", {weights: good},
        config_text='{"d_model": 32, "n_layer": 3, "vocab_size": 12, "attn_layer_idx": [1]}')
    put("no_weights", {})
    put("text_weights", {weights: b"hello, these are no weights\n"})

    # Masked models of one direction, and without a mask token.
    source = os.path.join(test_data, "caduceus_ph")
    both = read_safetensors(os.path.join(source, weights))
    with open(os.path.join(source, "config.json"), encoding="utf-8") as file:
        masked_config = file.read()
    one_way = dict(json.loads(masked_config), bidirectional=False)
    put("one_way", {weights: safetensors({n: t for n, t in both.items() if ".mamba_rev." not in n})},
        config_text=json.dumps(one_way))
    vocabulary = {"A": 7, "C": 8, "G": 9, "T": 10, "N": 11}
    put("no_mask", {weights: safetensors(both), "vocab.json": json.dumps(vocabulary).encode()},
        config_text=masked_config)

    def shards(names):
        parts = ({}, {})
        for name, tensor in tensors.items():
            parts["layers.2" in name][name] = tensor
        where = {name: names["layers.2" in name] for name in tensors}
        index = {"metadata": {}, "weight_map": where}
        return index, parts

    names = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    index, parts = shards(names)
    files = {name: safetensors(part) for name, part in zip(names, parts)}
    put("shards", dict(files, **{"model.safetensors.index.json": json.dumps(index).encode()}))
    put("shard_gone",
        {names[0]: files[names[0]], "model.safetensors.index.json": json.dumps(index).encode()})
    for label, name in (("shard_up", "../mamba1_long/model.safetensors"),
                        ("shard_root", "/etc/passwd")):
        index, _ = shards((names[0], name))
        put(label, dict(files, **{"model.safetensors.index.json": json.dumps(index).encode()}))


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    folder, test_data = sys.argv[1:]
    os.makedirs(os.path.join(folder, "files"))
    os.makedirs(os.path.join(folder, "models"))
    make_files(os.path.join(folder, "files"), random.Random(20240521))
    shutil.copyfile(os.path.join(test_data, "lambda.fa"), os.path.join(folder, "files/lambda.fa"))
    make_models(os.path.join(folder, "models"), test_data)


if __name__ == "__main__":
    main()
