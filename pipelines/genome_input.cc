#include "pipelines/genome_input.h"

#include <algorithm>
#include <deque>
#include <unordered_map>
#include <utility>

#include "io/bed.h"
#include "kernels/base/error.h"

namespace chromamba::pipelines {
namespace {

constexpr Strand kStrandOrder[] = {Strand::reverse, Strand::forward};

bool reads(StrandChoice choice, Strand strand) {
  return reads_both(choice) || (choice == StrandChoice::forward) == (strand == Strand::forward);
}

}  // namespace

GenomeInput::GenomeInput(InputOptions options)
    : options_(std::move(options)), display_name_(options_.path), path_(options_.path) {
  io::FastaOptions fasta;
  fasta.iupac_error = options_.iupac_error;
  fasta.threads = options_.threads;
  fasta.poll = [stop = options_.stop] { throw_if_stopped(stop); };
  const bool wants_regions = !options_.regions.empty() || !options_.regions_bed.empty();
  if (io::is_read_once(options_.path)) {
    if (options_.path == "-") display_name_ = "standard input";
    if (wants_regions) {
      throw UsageError("regions (-r, -R) need an indexed file, and " + display_name_ +
                       " can be read only once");
    }
    fasta.display_name = display_name_;
    spool_.emplace(options_.scratch_folder, options_.path, fasta.poll);
    path_ = spool_->path();
  }
  if (wants_regions) {
    index_ = std::make_unique<io::FastaIndex>(path_, fasta, options_.note);
    contigs_ = index_->contigs();
    for (const std::string& text : options_.regions) {
      regions_.push_back(io::parse_region(text, contigs_));
    }
    if (!options_.regions_bed.empty()) {
      std::vector<io::Region> bed = io::read_bed(options_.regions_bed, contigs_);
      regions_.insert(regions_.end(), std::make_move_iterator(bed.begin()),
                      std::make_move_iterator(bed.end()));
    }
  } else {
    const io::FastaSummary summary = io::scan_fasta(path_, fasta);
    contigs_ = summary.contigs;
    iupac_ = summary.iupac;
    for (const io::ContigInfo& contig : contigs_) {
      regions_.push_back({contig.name, 0, contig.length, contig.name, '.'});
    }
  }

  std::unordered_map<std::string, size_t> contig_of;
  for (size_t i = 0; i < contigs_.size(); ++i) contig_of.emplace(contigs_[i].name, i);
  std::vector<ContigWork> by_contig(contigs_.size());
  for (size_t r = 0; r < regions_.size(); ++r) {
    ContigWork& work = by_contig[contig_of.at(regions_[r].contig)];
    work.segments.push_back({static_cast<int64_t>(r), regions_[r].start, regions_[r].end});
  }
  for (size_t i = 0; i < by_contig.size(); ++i) {
    if (by_contig[i].segments.empty()) continue;
    by_contig[i].contig = i;
    work_.push_back(std::move(by_contig[i]));
  }
}

int64_t GenomeInput::bases_wanted() const {
  int64_t bases = 0;
  for (const io::Region& region : regions_) bases += region.end - region.start;
  return bases;
}

void GenomeInput::for_each_pass(StrandChoice strand, const ReadPlan& plan,
                                const std::function<void(const Pass&)>& visit) const {
  for (const ContigWork& work : work_) {
    const io::ContigInfo& contig = contigs_[work.contig];
    for (const Strand direction : kStrandOrder) {
      if (!reads(strand, direction)) continue;
      for (const Pass& pass :
           plan_reads(contig.name, contig.length, direction, work.segments, plan)) {
        visit(pass);
      }
    }
  }
}

int64_t GenomeInput::spool_bytes(StrandChoice strand) const {
  if (strand == StrandChoice::forward || !whole_contigs()) return 0;
  int64_t longest = 0;
  for (const io::ContigInfo& contig : contigs_) longest = std::max(longest, contig.length);
  return longest;
}

NextPass GenomeInput::passes(StrandChoice strand, const ReadPlan& plan) {
  // What the calls share: where in the work list they are, and the passes planned but not given out.
  struct Progress {
    size_t next_work = 0;
    std::deque<PassInput> ready;
    std::unique_ptr<io::FastaReader> reader;
  };
  auto progress = std::make_shared<Progress>();
  if (whole_contigs()) {
    io::FastaOptions fasta;
    fasta.iupac_error = options_.iupac_error;
    fasta.threads = options_.threads;
    fasta.display_name = display_name_;
    progress->reader = std::make_unique<io::FastaReader>(path_, fasta);
  }
  return [this, strand, plan, progress]() -> std::optional<PassInput> {
    while (progress->ready.empty()) {
      if (progress->next_work == work_.size()) return std::nullopt;
      const ContigWork& work = work_[progress->next_work++];
      const io::ContigInfo& contig = contigs_[work.contig];
      std::shared_ptr<BaseSource> bases;
      if (!whole_contigs()) {
        bases = std::make_shared<IndexedBases>(*index_, contig.name);
      } else {
        char more = 0;
        if (progress->next_work > 1 && progress->reader->read(&more, 1) != 0) {
          throw DataError(display_name_ + ": contig " + progress->reader->name() +
                          " is longer than at the first reading: the file changed meanwhile");
        }
        if (!progress->reader->next_contig() || progress->reader->name() != contig.name) {
          throw DataError(display_name_ + ": contig " + contig.name +
                          " is gone since the first reading: the file changed meanwhile");
        }
        if (strand == StrandChoice::forward) {
          bases = std::make_shared<SequentialBases>(*progress->reader);
        } else {
          bases = std::make_shared<SpooledBases>(*progress->reader, options_.scratch_folder,
                                                 contig.length);
        }
      }
      for (const Strand direction : kStrandOrder) {
        if (!reads(strand, direction)) continue;
        for (Pass& pass : plan_reads(contig.name, contig.length, direction, work.segments, plan)) {
          progress->ready.push_back({std::move(pass), bases});
        }
      }
    }
    PassInput input = std::move(progress->ready.front());
    progress->ready.pop_front();
    return input;
  };
}

}  // namespace chromamba::pipelines
