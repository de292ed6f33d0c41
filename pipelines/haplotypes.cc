#include "pipelines/haplotypes.h"

#include <algorithm>
#include <numeric>
#include <optional>

#include "io/quote.h"
#include "kernels/base/error.h"

namespace chromamba::pipelines {
namespace {

// Codes of haplotypes that have no change: the reference, or an allele left out, less its status.
constexpr int32_t kReference = -1;
constexpr int32_t kLeftOut = -2;

// What one BGZF block holds: less would inflate the same block again for the next record.
constexpr int64_t kWindowBases = int64_t{1} << 16;

bool inserts(const Change& change) { return change.start == change.end; }

bool is_missing(const io::Genotype& genotype) {
  return std::all_of(genotype.alleles.begin(), genotype.alleles.end(),
                     [](int32_t allele) { return allele == io::Genotype::kMissing; });
}

}  // namespace

bool Haplotype::known() const {
  return !changes.empty() || std::all_of(left_out.begin(), left_out.end(), [](const auto& reason) {
    // Another record has the deletion.
    return reason.first == status_name(AlleleStatus::spanning_deletion);
  });
}

// ----------------------------------------------------------------------------------- builder

void HaplotypeBuilder::Extent::add(int64_t from, int64_t to) {
  start = end < start ? from : std::min(start, from);
  end = std::max(end, to);
}

HaplotypeBuilder::HaplotypeBuilder(std::string contig, const ContigBases* reference)
    : contig_(std::move(contig)), reference_(reference) {}

// Without the bases that the reference has too: first those at the end, so that an indel in a repeat stays at its left.
Change HaplotypeBuilder::trimmed(Allele allele) {
  if (allele.start < window_start_ ||
      allele.end > window_start_ + static_cast<int64_t>(window_.size())) {
    const int64_t size = std::min(std::max(allele.end - allele.start, kWindowBases),
                                  reference_->length - allele.start);
    window_.resize(static_cast<size_t>(size));
    window_start_ = allele.start;
    reference_->bases->read(window_start_, size, window_.data());
  }
  const char* bases = window_.data() - window_start_;
  Change change{allele.start, allele.end, std::move(allele.alt)};
  while (!inserts(change) && !change.alt.empty() && change.alt.back() == bases[change.end - 1]) {
    change.alt.pop_back();
    --change.end;
  }
  size_t same = 0;
  while (!inserts(change) && same < change.alt.size() && change.alt[same] == bases[change.start]) {
    ++same;
    ++change.start;
  }
  change.alt.erase(0, same);
  return change;
}

// `changed` grows where the allele is a change.
int32_t HaplotypeBuilder::code_of(const ResolvedAllele& allele, const io::VariantRecord& record,
                                  Extent& changed) {
  if (allele.is_reference || allele.status == AlleleStatus::no_change) return kReference;
  if (allele.status != AlleleStatus::scored) return kLeftOut - static_cast<int32_t>(allele.status);
  const Allele& change = allele.allele;
  if (reference_ == nullptr || change.start != record.position || change.end <= change.start ||
      change.end > reference_->length) {
    throw InternalError("an allele outside of its record or contig");
  }
  changed.add(change.start, change.end);
  changes_.push_back(trimmed(change));
  return static_cast<int32_t>(changes_.size() - 1);
}

void HaplotypeBuilder::add(const io::VariantRecord& record, const io::Genotype& genotype,
                           const ResolvedRecord& resolved, HaplotypeCounts& counts) {
  const std::vector<int32_t>& numbers = genotype.alleles;
  const bool phased = genotype.phased || numbers.size() == 1;
  Call call;
  call.homozygous =
      numbers.size() > 1 && std::all_of(numbers.begin(), numbers.end(),
                                        [&](int32_t number) { return number == numbers[0]; });
  Extent changed;
  const size_t changes = changes_.size();
  bool varies = false;
  for (size_t h = 0; h < numbers.size(); ++h) {
    const int32_t number = numbers[h];
    const auto before =
        std::find(numbers.begin(), numbers.begin() + static_cast<ptrdiff_t>(h), number);
    int32_t code = kReference;
    if (before - numbers.begin() < static_cast<ptrdiff_t>(h)) {
      code = call.codes[static_cast<size_t>(before - numbers.begin())];
    } else if (number > 0) {
      code = code_of(resolved.alleles.at(static_cast<size_t>(number - 1)), record, changed);
    } else if (number == 0 && resolved.swapped) {
      code = code_of(resolved.alleles.back(), record, changed);  // REF
    }
    varies = varies || code != kReference;
    call.codes.push_back(code);
  }
  if (!varies) return;
  ++counts.variants;
  if (!phased && !call.homozygous) {
    ++counts.unphased;
    changes_.resize(changes);
    return;
  }
  Extent extent = changed;
  if (changed.end <= changed.start) {
    const int64_t start = std::max<int64_t>(record.position, 0);
    int64_t end = start + std::max<int64_t>(record.reference_length, 1);
    if (reference_ != nullptr && start < reference_->length) {
      end = std::min(end, reference_->length);
    }
    extent.add(start, end);
  }
  call.start = extent.start;
  call.end = extent.end;
  if (phased) {
    const auto [set, fresh] =
        set_of_.emplace(std::pair(genotype.phase_set, numbers.size()), sets_.size());
    if (fresh) {
      PhaseSet& made = sets_.emplace_back();
      made.name = genotype.phase_set;
      made.ploidy = numbers.size();
    }
    call.set = static_cast<int64_t>(set->second);
    PhaseSet& own = sets_[set->second];
    own.calls.push_back(calls_.size());
    own.records.add(extent.start, extent.end);
    if (changed.end > changed.start) own.changes.add(changed.start, changed.end);
  }
  calls_.push_back(std::move(call));
}

// Puts homozygous genotypes into all blocks in whose extent they lie, or into blocks of their own.
void HaplotypeBuilder::add_homozygous() {
  std::vector<size_t> order(sets_.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return sets_[a].extent().start < sets_[b].extent().start;
  });
  size_t next = 0;
  std::vector<size_t> open;  // sets that begin before the genotype and may go on beyond it
  for (size_t i = 0; i < calls_.size(); ++i) {
    const Call& call = calls_[i];
    if (!call.homozygous) continue;
    for (; next < order.size() && sets_[order[next]].extent().start <= call.start; ++next) {
      open.push_back(order[next]);
    }
    std::erase_if(open, [&](size_t s) { return sets_[s].extent().end <= call.start; });
    bool placed = call.set >= 0;
    for (const size_t s : open) {
      if (sets_[s].extent().end < call.end || static_cast<int64_t>(s) == call.set) continue;
      sets_[s].calls.push_back(i);
      placed = true;
    }
    if (!placed) {
      PhaseSet& own = sets_.emplace_back();
      own.ploidy = call.codes.size();
      own.records.add(call.start, call.end);
      own.calls.push_back(i);
    }
  }
  for (PhaseSet& set : sets_) std::sort(set.calls.begin(), set.calls.end());
}

Haplotype HaplotypeBuilder::haplotype_of(const PhaseSet& set, size_t index) const {
  std::vector<Change> changes;
  Haplotype haplotype;
  for (const size_t i : set.calls) {
    const Call& call = calls_[i];
    const int32_t code = call.codes[call.homozygous ? 0 : index];
    if (code >= 0) {
      changes.push_back(changes_[static_cast<size_t>(code)]);
    } else if (code <= kLeftOut) {
      ++haplotype.left_out[status_name(static_cast<AlleleStatus>(kLeftOut - code))];
    }
  }
  std::stable_sort(changes.begin(), changes.end(), [](const Change& a, const Change& b) {
    return a.start != b.start ? a.start < b.start : inserts(a) && !inserts(b);
  });
  for (Change& change : changes) {
    const Change* before = haplotype.changes.empty() ? nullptr : &haplotype.changes.back();
    const bool overlaps = before != nullptr &&
                          (change.start < before->end ||
                           (change.start == before->start && inserts(change) && inserts(*before)));
    if (overlaps) {
      ++haplotype.left_out["OVERLAP"];
    } else {
      haplotype.changes.push_back(std::move(change));
    }
  }
  return haplotype;
}

HaplotypeBlock HaplotypeBuilder::block_of(const PhaseSet& set) const {
  HaplotypeBlock block;
  block.contig = contig_;
  block.start = set.extent().start;
  block.end = set.extent().end;
  block.phase_set = set.name;
  for (size_t h = 0; h < set.ploidy; ++h) block.haplotypes.push_back(haplotype_of(set, h));
  return block;
}

std::vector<HaplotypeBlock> HaplotypeBuilder::finish() {
  add_homozygous();
  std::vector<HaplotypeBlock> blocks;
  blocks.reserve(sets_.size());
  for (const PhaseSet& set : sets_) blocks.push_back(block_of(set));
  std::stable_sort(
      blocks.begin(), blocks.end(),
      [](const HaplotypeBlock& a, const HaplotypeBlock& b) { return a.start < b.start; });
  changes_.clear();
  calls_.clear();
  sets_.clear();
  set_of_.clear();
  return blocks;
}

// ------------------------------------------------------------------------------------ reader

HaplotypeReader::HaplotypeReader(io::VariantReader& reader, int64_t sample, FindVariant find)
    : reader_(reader), sample_(sample), find_(std::move(find)) {}

bool HaplotypeReader::next(Contig& contig) {
  contig = {};
  if (!started_) more_ = reader_.next(record_);
  started_ = true;
  if (!more_) return false;
  const std::string name = record_.contig;
  const auto fail = [&](const std::string& what) {
    throw DataError(reader_.display_name() + ": " + record_.place() + ": " + what);
  };
  if (!seen_.insert(name).second) {
    fail("the records of contig " + io::quote(name) +
         " do not stand together; sort the file with 'bcftools sort'");
  }
  std::optional<HaplotypeBuilder> builder;
  int64_t last_position = record_.position;
  for (; more_ && record_.contig == name; more_ = reader_.next(record_)) {
    ++counts_.records;
    if (record_.position < last_position) {
      fail("lies before the record before it; sort the file with 'bcftools sort'");
    }
    last_position = record_.position;
    const std::optional<io::Genotype> genotype = record_.genotype(sample_);
    if (!genotype) ++counts_.without_genotype;
    if (!genotype || is_missing(*genotype)) continue;
    if (genotype->alleles.size() > kMostHaplotypes) {
      fail("GT has " + std::to_string(genotype->alleles.size()) + " alleles; expected at most " +
           std::to_string(kMostHaplotypes));
    }
    const SampleVariant variant = find_(record_);
    if (!builder) {
      contig.reference = variant.contig;
      builder.emplace(name, variant.contig);
    }
    builder->add(record_, *genotype, variant.record, counts_);
  }
  if (builder) contig.blocks = builder->finish();
  counts_.blocks += static_cast<int64_t>(contig.blocks.size());
  return true;
}

// ------------------------------------------------------------------------------------- table

HaplotypeTable::HaplotypeTable(const std::string& path_or_dash, bool bgzip,
                               const std::vector<std::string>& header_lines)
    : table_(path_or_dash, bgzip, header_lines,
             {"contig", "start", "end", "phase_set", "haplotype", "variants", "llr", "llr_fwd",
              "llr_rev", "skipped"}) {}

void HaplotypeTable::add(const HaplotypeBlock& block, const std::vector<HaplotypeScore>& scores) {
  const auto number = [](double value) {
    return io::format_info_number(static_cast<float>(value));
  };
  for (size_t h = 0; h < block.haplotypes.size(); ++h) {
    const Haplotype& haplotype = block.haplotypes[h];
    const HaplotypeScore& score = scores.at(h);
    std::string skipped;
    for (const auto& [reason, count] : haplotype.left_out) {
      if (!skipped.empty()) skipped += ',';
      skipped += reason + "=" + std::to_string(count);
    }
    table_.row({block.contig, std::to_string(block.start + 1), std::to_string(block.end),
                block.phase_set.empty() ? "." : block.phase_set, std::to_string(h + 1),
                std::to_string(haplotype.changes.size()),
                number((score.forward + score.reverse) / 2), number(score.forward),
                number(score.reverse), skipped.empty() ? "." : skipped});
  }
}

}  // namespace chromamba::pipelines
