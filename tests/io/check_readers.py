"""Reads files that hdf5_file_test.cc wrote with h5py and pyBigWig, and compares.

Usage: check_readers.py FOLDER. Exits with 0 when all agrees; prints SKIPPED for a missing module.
"""
import math
import sys

folder = sys.argv[1]

try:
    import h5py
    import numpy as np
except ImportError as error:
    print("SKIPPED: h5py:", error)
else:
    with h5py.File(folder + "/a.h5", "r") as file:
        assert file.attrs["format"] == "chromamba é", file.attrs["format"]
        assert isinstance(file.attrs["format"], str)
        assert file.attrs["version"] == -3 and file.attrs["half"] == 0.5
        embedding = file["embedding/chr1"]
        assert embedding.dtype == np.float16, embedding.dtype
        assert embedding.shape == (10, 4)
        assert embedding.compression == "gzip" and embedding.shuffle
        expected = (np.arange(36, dtype=np.float32) * np.float32(0.1)).astype(np.float16)
        assert np.array_equal(embedding[:9].ravel(), expected)
        assert np.isnan(embedding[9]).all()
        track = file["log_likelihood/a%2Fb"]
        assert track.dtype == np.float32 and track.shape == (10,)
        assert math.isnan(track[0]) and track[9] == np.float32(8) * np.float32(0.1)
        assert file["log_likelihood/none"].shape == (0,)
        assert list(file["regions/name"].asstr()) == ["chr1", "é", ""]
        assert list(file["regions/start"]) == [1, -2, 1 << 40]

try:
    import pyBigWig
except ImportError as error:
    print("SKIPPED: pyBigWig:", error)
else:
    with pyBigWig.open(folder + "/a.bw") as file:
        assert dict(file.chroms()) == {"chr2": 20000, "chr10": 100, "z": 0, "chr1": 50}, file.chroms()
        values = file.values("chr2", 0, 20000)
        assert math.isnan(values[7])
        assert all(v == -(i % 100) for i, v in enumerate(values) if i != 7)
        chr10 = file.values("chr10", 0, 100)
        assert all(math.isnan(v) for v in chr10[:10] + chr10[60:])
        assert chr10[59] == -49 and file.values("chr1", 49, 50) == [-49]
        header = file.header()
        assert header["nBasesCovered"] == 20000 + 50 + 50 - 3, header
        assert header["nLevels"] == 5, header
        mean = file.stats("chr2", 8192, 16384, nBins=2)
        assert abs(mean[0] - sum(-(i % 100) for i in range(8192, 12288)) / 4096) < 1e-3, mean
    with pyBigWig.open(folder + "/empty.bw") as file:
        assert dict(file.chroms()) == {"a": 100}
        assert not file.intervals("a")
