"""Reads files that variant_file_test.cc wrote with cyvcf2, and compares.

Usage: check_variants.py FILE... Every file holds the same records: CM_LLR is minus the number of
the allele in the file, from 1, divided by 8. Prints SKIPPED when cyvcf2 is not there.
"""
import sys

try:
    import cyvcf2
except ImportError as error:
    print("SKIPPED: cyvcf2:", error)
    sys.exit(0)

for path in sys.argv[1:]:
    allele = 0
    records = 0
    for record in cyvcf2.VCF(path):
        records += 1
        values = record.INFO.get("CM_LLR")
        if not record.ALT:
            assert values is None, (path, str(record))
            continue
        values = values if isinstance(values, tuple) else (values,)
        assert len(values) == len(record.ALT), (path, str(record))
        for value in values:
            allele += 1
            assert value == -allele / 8, (path, str(record))
        assert len(record.INFO.get("CM_STATUS").split(",")) == len(record.ALT), (path, str(record))
    assert records > 10, (path, records)
