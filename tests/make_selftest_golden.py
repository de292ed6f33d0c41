#!/usr/bin/env python3
"""Writes pipelines/selftest_golden.h from test_data/human-d128/expected.safetensors.

usage: tests/make_selftest_golden.py > pipelines/selftest_golden.h
"""
import json
import os
import struct

LENGTH = 1024
root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
with open(os.path.join(root, "test_data/human-d128/expected.safetensors"), "rb") as f:
    header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
    data = f.read()


def part(name):
    begin, end = header[name]["data_offsets"]
    return data[begin:end]


letters = {7: "A", 8: "C", 9: "G", 10: "T", 11: "N"}
bases = "".join(letters[token] for token in part("input_ids")[:LENGTH])
log_p = struct.unpack("<%df" % (LENGTH - 1), part("next_logprob")[: 4 * (LENGTH - 1)])

print("// Made by tests/make_selftest_golden.py: the first bases of the held-out stretch of human")
print("// chromosome 20 (GRCh37, from 10,000,001) and the ln p of the 2nd, 3rd, … base that the")
print("// published implementation gives with the built-in model, in f32.")
print("// clang-format off")
print("#pragma once\n\n#include <cstdint>\n")
print("namespace chromamba::pipelines {\n")
print("inline constexpr int64_t kSelftestLength = %d;\n" % LENGTH)
print("inline constexpr char kSelftestBases[] =")
for i in range(0, LENGTH, 80):
    print('    "%s"%s' % (bases[i : i + 80], ";" if i + 80 >= LENGTH else ""))
print("\ninline constexpr float kSelftestLogP[] = {")
for i in range(0, LENGTH - 1, 8):
    print("    " + " ".join("%.9gF," % v if "." in "%.9g" % v or "e" in "%.9g" % v else "%.9g.0F," % v
                            for v in log_p[i : i + 8]))
print("};\n\n}  // namespace chromamba::pipelines")
print("// clang-format on")
