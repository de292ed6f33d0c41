#include "pipelines/allele_list.h"

#include <algorithm>
#include <map>
#include <random>
#include <tuple>
#include <vector>

#include "kernels/base/error.h"
#include "tests/io/support.h"

namespace chromamba::pipelines {
namespace {

using io::testing::message_of;
using io::testing::TempFolder;

// All of an allele, for comparisons.
using Fields = std::tuple<int64_t, int64_t, int64_t, std::string>;

Fields fields(const Allele& allele) {
  return {allele.number, allele.start, allele.end, allele.alt};
}

std::vector<Fields> all_of(const AlleleList& list, int64_t contig, Strand strand) {
  const std::unique_ptr<AlleleSource> source = list.alleles(contig, strand);
  std::vector<Fields> alleles;
  Allele allele;
  while (source->next(allele)) alleles.push_back(fields(allele));
  CHECK_FALSE(source->next(allele));
  return alleles;
}

using Input = std::vector<std::pair<int64_t, Allele>>;

// The order that allele.h states, by std::stable_sort of the alleles in the order of their numbers.
std::vector<Fields> expected_of(Input input, int64_t contig, Strand strand) {
  std::erase_if(input, [contig](const auto& at) { return at.first != contig; });
  std::sort(input.begin(), input.end(),
            [](const auto& a, const auto& b) { return a.second.number < b.second.number; });
  std::stable_sort(input.begin(), input.end(), [strand](const auto& a, const auto& b) {
    return strand == Strand::forward ? a.second.start < b.second.start
                                     : a.second.end > b.second.end;
  });
  std::vector<Fields> alleles;
  for (const auto& [of, allele] : input) alleles.push_back(fields(allele));
  return alleles;
}

std::string random_bases(std::mt19937& random, size_t n) {
  std::string bases(n, 'A');
  for (char& base : bases) base = "ACGT"[random() % 4];
  return bases;
}

// Several alleles a place, alts of no base, one, some and (rarely) thousands.
Input random_input(size_t n, int64_t contigs, bool sorted) {
  std::mt19937 random(5);
  Input input;
  for (size_t i = 0; i < n; ++i) {
    Allele allele;
    allele.start = static_cast<int64_t>(random() % (n / 4 + 1));
    allele.end = allele.start + 1 + (random() % 4 == 0 ? random() % 50 : 0);
    const size_t kind = random() % 200;
    allele.alt = random_bases(random, kind == 0 ? random() % 9000 : kind < 50 ? random() % 30 : 1);
    input.emplace_back(random() % static_cast<uint32_t>(contigs) * 3 + 1, allele);
  }
  if (sorted) {
    std::sort(input.begin(), input.end(), [](const auto& a, const auto& b) {
      return std::pair(a.first, a.second.start) < std::pair(b.first, b.second.start);
    });
  }
  for (size_t i = 0; i < n; ++i) input[i].second.number = static_cast<int64_t>(i);
  if (!sorted) std::shuffle(input.begin(), input.end(), random);
  return input;
}

void check_list(const Input& input, int64_t memory) {
  TempFolder folder;
  AlleleList list(memory, folder.path());
  std::map<int64_t, ContigLoad> loads;
  for (const auto& [contig, allele] : input) {
    list.add(contig, allele);
    const auto alt = static_cast<int64_t>(allele.alt.size());
    ContigLoad& load = loads[contig];
    ++load.alleles;
    load.bases += allele.end - allele.start + alt;
    load.longest = std::max({load.longest, alt, allele.end - allele.start});
  }
  list.finish();
  CHECK(folder.count() == 0);  // unlinked
  REQUIRE(list.contigs().size() == loads.size());
  size_t i = 0;
  for (const auto& [contig, load] : loads) {
    const ContigLoad& found = list.contigs()[i++];
    CHECK(found.contig == contig);
    CHECK(found.alleles == load.alleles);
    CHECK(found.bases == load.bases);
    CHECK(found.longest == load.longest);
    CHECK(all_of(list, contig, Strand::forward) == expected_of(input, contig, Strand::forward));
    CHECK(all_of(list, contig, Strand::reverse) == expected_of(input, contig, Strand::reverse));
  }
  CHECK(all_of(list, 0, Strand::forward).empty());
  CHECK(all_of(list, 1000000, Strand::reverse).empty());
}

TEST_CASE("alleles come in the order of the strand", "[allele_list]") {
  // The third ends first on the reverse strand; the others share a start or an end.
  const Input input = {{0, {2, 10, 11, "A"}},
                       {0, {1, 10, 12, ""}},
                       {0, {0, 5, 50, "ACGT"}},
                       {0, {4, 11, 12, "G"}},
                       {0, {3, 10, 11, "A"}}};
  const int64_t memory = GENERATE(0, 1 << 20);
  TempFolder folder;
  AlleleList list(memory, folder.path());
  for (const auto& [contig, allele] : input) list.add(contig, allele);
  list.finish();
  const auto numbers = [&](Strand strand) {
    std::vector<int64_t> found;
    for (const Fields& allele : all_of(list, 0, strand)) found.push_back(std::get<0>(allele));
    return found;
  };
  CHECK(numbers(Strand::forward) == std::vector<int64_t>{0, 1, 2, 3, 4});
  CHECK(numbers(Strand::reverse) == std::vector<int64_t>{0, 1, 4, 2, 3});
}

TEST_CASE("spilled alleles are those in memory", "[allele_list]") {
  const bool sorted = GENERATE(false, true);
  // 0: every allele is a run, merged again and again; 100,000: some 20 runs.
  const int64_t memory = GENERATE(0, 100'000, 1 << 30);
  check_list(random_input(6000, 5, sorted), memory);
}

TEST_CASE("runs that each have most of many contigs", "[allele_list]") {
  check_list(random_input(6000, 400, false), 50'000);
}

TEST_CASE("both strands of two contigs are read at a time", "[allele_list]") {
  const int64_t memory = GENERATE(100'000, 1 << 30);
  TempFolder folder;
  const Input input = random_input(3000, 2, false);
  AlleleList list(memory, folder.path());
  for (const auto& [contig, allele] : input) list.add(contig, allele);
  list.finish();
  std::vector<std::unique_ptr<AlleleSource>> sources;
  std::vector<std::vector<Fields>> found(4);
  for (const int64_t contig : {1, 4}) {
    for (const Strand strand : {Strand::forward, Strand::reverse}) {
      sources.push_back(list.alleles(contig, strand));
    }
  }
  Allele allele;
  for (bool more = true; more;) {
    more = false;
    for (size_t i = 0; i < sources.size(); ++i) {
      if (!sources[i]->next(allele)) continue;
      found[i].push_back(fields(allele));
      more = true;
    }
  }
  CHECK(found[0] == expected_of(input, 1, Strand::forward));
  CHECK(found[1] == expected_of(input, 1, Strand::reverse));
  CHECK(found[2] == expected_of(input, 4, Strand::forward));
  CHECK(found[3] == expected_of(input, 4, Strand::reverse));
}

TEST_CASE("a list of no alleles", "[allele_list]") {
  AlleleList list(0, "/no/such/folder");
  list.finish();
  CHECK(list.contigs().empty());
  CHECK(all_of(list, 0, Strand::reverse).empty());
}

TEST_CASE("what a list refuses", "[allele_list]") {
  AlleleList list(0, "/no/such/folder");
  CHECK_THROWS_AS(list.contigs(), InternalError);
  CHECK_THROWS_AS(list.alleles(0, Strand::forward), InternalError);
  CHECK_THROWS_AS(list.add(0, {0, 5, 5, "A"}), InternalError);
  CHECK_THROWS_AS(list.add(0, {0, -1, 5, "A"}), InternalError);
  CHECK_THROWS_AS(list.add(-1, {0, 1, 2, "A"}), InternalError);
  list.add(0, {0, 1, 2, "A"});
  CHECK(message_of<ResourceError>([&] {
          list.add(0, {1, 1, 2, "A"});
        }).find("/no/such/folder") != std::string::npos);
  AlleleList finished(1 << 20, ".");
  finished.finish();
  CHECK_THROWS_AS(finished.finish(), InternalError);
  CHECK_THROWS_AS(finished.add(0, {0, 1, 2, "A"}), InternalError);
}

}  // namespace
}  // namespace chromamba::pipelines
