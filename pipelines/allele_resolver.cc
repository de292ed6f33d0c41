#include "pipelines/allele_resolver.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

#include "io/bases.h"
#include "io/quote.h"
#include "kernels/base/error.h"

namespace chromamba::pipelines {
namespace {

// What one BGZF block holds: less would inflate the same block again for the next record.
constexpr int64_t kWindowBases = int64_t{1} << 16;

// The bases that a letter of REF can stand for, as bits: A 1, C 2, G 4, T 8.
constexpr std::array<uint8_t, 256> kLetterBases = [] {
  std::array<uint8_t, 256> bases{};
  constexpr std::pair<char, uint8_t> kLetters[] = {
      {'A', 1},  {'C', 2}, {'G', 4},  {'T', 8},  {'U', 8},  {'R', 5}, {'Y', 10}, {'S', 6}, {'W', 9},
      {'K', 12}, {'M', 3}, {'B', 14}, {'D', 13}, {'H', 11}, {'V', 7}, {'N', 15}, {'X', 15}};
  for (const auto& [letter, bits] : kLetters) {
    bases[static_cast<uint8_t>(letter)] = bits;
    bases[static_cast<uint8_t>(letter | 0x20)] = bits;
  }
  return bases;
}();

uint8_t letter_bases(char letter) { return kLetterBases[static_cast<uint8_t>(letter)]; }

bool fits(char ref, char reference) {
  return reference == 'N' ? letter_bases(ref) != 0
                          : (letter_bases(ref) & letter_bases(reference)) != 0;
}

bool is_acgt(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) {
    const uint8_t bases = letter_bases(c);
    return bases != 0 && (bases & (bases - 1)) == 0;
  });
}

// Letters for which is_acgt holds, as A, C, G, T.
std::string normalised(std::string_view letters) {
  std::string bases(letters);
  for (char& base : bases) base = static_cast<char>(io::kBaseCodes[static_cast<uint8_t>(base)]);
  return bases;
}

bool same_letters(std::string_view a, std::string_view b) {
  const auto upper = [](char c) { return 'a' <= c && c <= 'z' ? static_cast<char>(c - 0x20) : c; };
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [upper](char x, char y) { return upper(x) == upper(y); });
}

bool has(std::string_view text, char c) { return text.find(c) != std::string_view::npos; }

bool is_breakend(std::string_view alt) {
  return has(alt, '[') || has(alt, ']') || alt.starts_with('.') || alt.ends_with('.');
}

// Other spellings of a contig's name, the likeliest first.
std::vector<std::string> other_names(const std::string& name) {
  constexpr std::string_view kPrefix = "chr";
  const bool prefixed = name.starts_with(kPrefix);
  const std::string bare = prefixed ? name.substr(kPrefix.size()) : name;
  std::vector<std::string> bare_names = {bare};
  if (bare == "M") bare_names.emplace_back("MT");
  if (bare == "MT") bare_names.emplace_back("M");
  std::vector<std::string> names;
  for (const std::string& other : bare_names) {
    for (const bool with_prefix : {!prefixed, prefixed}) {
      names.push_back(with_prefix ? std::string(kPrefix) + other : other);
    }
  }
  return names;
}

enum class SymbolicChange { none, deletion, inversion, duplication };

SymbolicChange symbolic_change(std::string_view alt) {
  if (alt == "<DEL>" || (alt.starts_with("<DEL:") && alt.ends_with('>'))) {
    return SymbolicChange::deletion;
  }
  if (alt == "<INV>") return SymbolicChange::inversion;
  if (alt == "<DUP:TANDEM>") return SymbolicChange::duplication;
  return SymbolicChange::none;
}

// How many bases after POS a symbolic allele changes, where END and SVLEN agree on it.
std::optional<int64_t> changed_bases(const io::VariantRecord& record, size_t index,
                                     SymbolicChange change) {
  std::optional<int64_t> by_end;
  if (record.end) by_end = *record.end - record.position - 1;
  std::optional<int64_t> by_length;
  if (index < record.svlen.size()) by_length = record.svlen[index];
  if (change == SymbolicChange::inversion && by_length == 0) by_length.reset();
  if (change == SymbolicChange::deletion && by_length && *by_length < 0) {
    by_length = -std::max(*by_length, -std::numeric_limits<int64_t>::max());
  }
  if (by_end && by_length && *by_end != *by_length) return std::nullopt;
  const std::optional<int64_t> n = by_end ? by_end : by_length;
  return n && *n > 0 ? n : std::nullopt;
}

}  // namespace

// Of the record at hand: REF's place on the contig.
struct AlleleResolver::Site {
  int64_t contig = -1;
  int64_t length = 0;  // of the contig
  int64_t start = 0;
  int64_t end = 0;
  std::string_view ref;   // as in the record
  std::string reference;  // what the reference has there
  bool acgt = false;      // neither has other letters
  bool swapped = false;
};

AlleleResolver::AlleleResolver(io::FastaIndex& reference, std::string reference_name,
                               std::string variants_name, ResolverOptions options, io::Note note)
    : reference_(reference),
      reference_name_(std::move(reference_name)),
      variants_name_(std::move(variants_name)),
      options_(options),
      note_(std::move(note)) {
  const std::vector<io::ContigInfo>& contigs = reference_.contigs();
  for (size_t i = 0; i < contigs.size(); ++i) {
    index_of_.emplace(contigs[i].name, static_cast<int64_t>(i));
  }
}

int64_t AlleleResolver::find_contig(const std::string& name) {
  const auto index = [this](const std::string& spelling) {
    const auto found = index_of_.find(spelling);
    return found == index_of_.end() ? -1 : found->second;
  };
  const int64_t exact = index(name);
  if (exact >= 0 || !options_.map_prefix) return exact;
  for (const std::string& other : other_names(name)) {
    const int64_t found = index(other);
    if (found < 0) continue;
    if (!noted_ && note_) {
      note_("contigs of " + variants_name_ + " are named " + io::quote(name) + ", those of " +
            reference_name_ + " " + io::quote(other) + ": matched");
    }
    noted_ = true;
    return found;
  }
  return -1;
}

int64_t AlleleResolver::contig_of(const io::VariantRecord& record) {
  if (record.contig != last_name_ || last_name_.empty()) {
    last_contig_ = find_contig(record.contig);
    last_name_ = record.contig;
  }
  if (last_contig_ < 0 && options_.strict) {
    throw DataError(variants_name_ + ": " + record.place() + ": contig " +
                    io::quote(record.contig) + " is not in " + reference_name_ +
                    "; give the reference that the variants were called on");
  }
  return last_contig_;
}

// Bases of the reference; the view holds until the next call.
std::string_view AlleleResolver::bases(int64_t contig, int64_t start, int64_t n) {
  const bool inside = contig == window_contig_ && start >= window_start_ &&
                      start + n <= window_start_ + static_cast<int64_t>(window_.size());
  if (!inside) {
    const io::ContigInfo& info = reference_.contigs()[static_cast<size_t>(contig)];
    window_contig_ = -1;
    window_.resize(static_cast<size_t>(std::min(std::max(n, kWindowBases), info.length - start)));
    reference_.fetch(info.name, start, static_cast<int64_t>(window_.size()), window_.data());
    window_contig_ = contig;
    window_start_ = start;
  }
  return std::string_view(window_).substr(static_cast<size_t>(start - window_start_),
                                          static_cast<size_t>(n));
}

AlleleStatus AlleleResolver::check_record(const io::VariantRecord& record, Site& site) {
  if (site.contig < 0) return AlleleStatus::no_contig;
  site.length = reference_.contigs()[static_cast<size_t>(site.contig)].length;
  const auto n = static_cast<int64_t>(record.ref.size());
  if (record.position < 0 || record.position > site.length - n) return AlleleStatus::off_contig;
  if (n > options_.longest) return AlleleStatus::too_long;
  site.start = record.position;
  site.end = record.position + n;
  site.ref = record.ref;
  site.reference = bases(site.contig, site.start, n);
  const bool ref_acgt = is_acgt(site.ref);
  site.acgt = ref_acgt && is_acgt(site.reference);
  const auto [wrong, reference] =
      std::mismatch(site.ref.begin(), site.ref.end(), site.reference.begin(), fits);
  if (wrong == site.ref.end()) return AlleleStatus::scored;
  ++counts_.mismatched;
  if (options_.ref_mismatch == RefMismatch::error) {
    throw DataError(variants_name_ + ": " + record.place() + ": REF is " + io::quote(site.ref) +
                    ", but " + reference_name_ + " has " + io::quote(site.reference) +
                    " there (they differ from base " +
                    std::to_string(site.start + (wrong - site.ref.begin()) + 1) +
                    " on); give the reference that the variants were called on");
  }
  if (options_.ref_mismatch == RefMismatch::swap && site.acgt) {
    site.swapped = std::any_of(record.alts.begin(), record.alts.end(), [&](const auto& alt) {
      return alt.size() == site.reference.size() && is_acgt(alt) &&
             normalised(alt) == site.reference;
    });
  }
  if (!site.swapped) return AlleleStatus::ref_mismatch;
  ++counts_.swapped;
  return AlleleStatus::scored;
}

AlleleStatus AlleleResolver::resolve_sequence(const std::string& alt, const Site& site,
                                              ResolvedAllele& to) const {
  if (static_cast<int64_t>(alt.size()) > options_.longest) return AlleleStatus::too_long;
  if (same_letters(alt, site.ref)) return AlleleStatus::no_change;
  if (!site.acgt || !is_acgt(alt)) return AlleleStatus::non_acgt;
  std::string changed = normalised(alt);
  if (changed == site.reference) {
    // Else only a U in REF for the reference's T leads here.
    if (!site.swapped) return AlleleStatus::no_change;
    to.is_reference = true;
  } else {
    to.allele = {0, site.start, site.end, std::move(changed)};
  }
  return AlleleStatus::scored;
}

AlleleStatus AlleleResolver::resolve_symbolic(const io::VariantRecord& record, size_t index,
                                              const Site& site, Allele& to) {
  const SymbolicChange change = symbolic_change(record.alts[index]);
  if (change == SymbolicChange::none) return AlleleStatus::symbolic;
  const std::optional<int64_t> n = changed_bases(record, index, change);
  if (!n) return AlleleStatus::symbolic;
  if (site.swapped) return AlleleStatus::ref_mismatch;
  if (*n > site.length - site.start - 1) return AlleleStatus::off_contig;
  if (*n > options_.longest - 1) return AlleleStatus::symbolic;  // with the base before them
  const std::string_view before = bases(site.contig, site.start, *n + 1);
  if (!is_acgt(before)) return AlleleStatus::non_acgt;
  Allele allele{0, site.start, site.start + *n + 1, std::string(before)};
  switch (change) {
    case SymbolicChange::deletion:
      allele.alt.resize(1);
      break;
    case SymbolicChange::inversion:
      io::reverse_complement(allele.alt.data() + 1, *n);
      if (allele.alt == before) return AlleleStatus::no_change;
      break;
    case SymbolicChange::duplication:
      allele.end = site.start + 1;
      break;
    case SymbolicChange::none:
      break;
  }
  to = std::move(allele);
  return AlleleStatus::scored;
}

AlleleStatus AlleleResolver::resolve_alt(const io::VariantRecord& record, size_t index,
                                         const Site& site, ResolvedAllele& to) {
  const std::string& alt = record.alts[index];
  if (alt == "*") return AlleleStatus::spanning_deletion;
  if (alt == ".") return AlleleStatus::no_change;
  if (is_breakend(alt)) return AlleleStatus::breakend;
  if (has(alt, '<') || has(alt, '>')) return resolve_symbolic(record, index, site, to.allele);
  return resolve_sequence(alt, site, to);
}

ResolvedRecord AlleleResolver::resolve(const io::VariantRecord& record) {
  Site site;
  site.contig = contig_of(record);
  const AlleleStatus cause = check_record(record, site);
  ResolvedRecord resolved;
  resolved.contig = site.contig;
  resolved.swapped = site.swapped;
  resolved.alleles.resize(record.alts.size());
  for (size_t i = 0; i < record.alts.size(); ++i) {
    ResolvedAllele& allele = resolved.alleles[i];
    allele.status = cause != AlleleStatus::scored ? cause : resolve_alt(record, i, site, allele);
    ++counts_.alleles[static_cast<size_t>(allele.status)];
  }
  if (site.swapped) {
    resolved.alleles.emplace_back().allele = {0, site.start, site.end, normalised(site.ref)};
  }
  return resolved;
}

}  // namespace chromamba::pipelines
