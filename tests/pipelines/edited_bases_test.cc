#include "pipelines/edited_bases.h"

#include <catch2/catch.hpp>
#include <random>

#include "io/bases.h"
#include "kernels/base/error.h"
#include "tests/pipelines/memory_passes.h"
#include "tests/random_values.h"

namespace chromamba::pipelines {
namespace {

using tests::MemoryBases;
using tests::random_dna;

std::string read_all(EditedBases& bases, int64_t piece) {
  std::string all;
  std::string block(static_cast<size_t>(piece), '?');
  for (int64_t n = 0; (n = bases.read(piece, block.data())) > 0;) {
    all.append(block, 0, static_cast<size_t>(n));
  }
  CHECK(bases.read(piece, block.data()) == 0);
  return all;
}

// Changes of [start, end), some of them side by side, insertions and deletions among them.
std::vector<Change> random_changes(int64_t start, int64_t end, int64_t spacing, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<Change> changes;
  for (int64_t at = start; at <= end;) {
    const int64_t replaced = std::min<int64_t>(random() % 4, end - at);
    const std::string alt = random_dna(random() % 5, random());
    const bool inserts = replaced == 0 && !changes.empty() && changes.back().start == at;
    if (!inserts) changes.push_back({at, at + replaced, alt});
    at += replaced + (random() % 3 == 0 ? 0 : 1 + random() % static_cast<unsigned>(spacing));
  }
  return changes;
}

TEST_CASE("edited bases are those of the edited text, on both strands and in pieces of any size") {
  const std::string contig = random_dna(150000, 1);
  MemoryBases source(contig);
  const ContigBases reference{"c", 150000, &source};
  struct Part {
    int64_t start, end, spacing;
  };
  for (const Part& part : {Part{0, 150000, 3000}, Part{100, 3000, 10}, Part{149000, 150000, 300},
                           Part{0, 2, 1}, Part{7, 7, 1}}) {
    for (unsigned seed = 0; seed < 10; ++seed) {
      const std::vector<Change> changes = random_changes(part.start, part.end, part.spacing, seed);
      std::string expected = contig.substr(static_cast<size_t>(part.start),
                                           static_cast<size_t>(part.end - part.start));
      for (auto change = changes.rbegin(); change != changes.rend(); ++change) {
        expected.replace(static_cast<size_t>(change->start - part.start),
                         static_cast<size_t>(change->end - change->start), change->alt);
      }
      std::string mirrored = expected;
      io::reverse_complement(mirrored.data(), static_cast<int64_t>(mirrored.size()));
      for (const int64_t piece : {1, 3, 1000, 70000, 200000}) {
        if (piece < 100 && part.end - part.start > 10000) continue;
        INFO(part.start << " to " << part.end << ", seed " << seed << ", pieces of " << piece);
        EditedBases forward(reference, Strand::forward, part.start, part.end, changes);
        EditedBases reverse(reference, Strand::reverse, part.start, part.end, changes);
        CHECK((read_all(forward, piece) == expected));
        CHECK((read_all(reverse, piece) == mirrored));
      }
    }
  }
}

TEST_CASE("changes that overlap or lie outside are our bug") {
  MemoryBases source("ACGTACGT");
  const ContigBases reference{"c", 8, &source};
  const auto make = [&](int64_t start, int64_t end, const std::vector<Change>& changes) {
    EditedBases bases(reference, Strand::forward, start, end, changes);
  };
  CHECK_NOTHROW(make(0, 8, {{0, 0, "A"}, {0, 2, ""}, {2, 8, "T"}, {8, 8, "C"}}));
  CHECK_THROWS_AS(make(0, 8, {{0, 3, "A"}, {2, 4, "C"}}), InternalError);
  CHECK_THROWS_AS(make(0, 8, {{3, 2, "A"}}), InternalError);
  CHECK_THROWS_AS(make(2, 8, {{1, 3, "A"}}), InternalError);
  CHECK_THROWS_AS(make(0, 7, {{6, 8, "A"}}), InternalError);
  CHECK_THROWS_AS(make(0, 9, {}), InternalError);
  CHECK_THROWS_AS(make(-1, 8, {}), InternalError);
}

}  // namespace
}  // namespace chromamba::pipelines
