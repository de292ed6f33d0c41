// The sequences of a job: which contigs there are, which regions of them are wanted, and the passes
// that a model makes over them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "io/fasta.h"
#include "io/fasta_index.h"
#include "io/pending_file.h"
#include "io/region.h"
#include "pipelines/stream.h"

namespace chromamba::pipelines {

// One line for the user.
using Note = std::function<void(const std::string&)>;

struct InputOptions {
  std::string path;                  // FASTA, or "-" for standard input
  std::vector<std::string> regions;  // samtools spelling
  std::string regions_bed;           // a BED file, or empty
  bool iupac_error = false;
  int threads = 1;
  std::string scratch_folder = ".";  // for spools; used only where the input cannot be sought in
  Note note;
  StopSignal stop = nullptr;  // asked while the input is read the first time
};

class GenomeInput {
 public:
  // Checks the whole input first: a broken file fails here, not hours later. Without regions that
  // is one fast pass over the file; with regions the index is opened or built. Standard input
  // and pipes are first copied to an unlinked file of the scratch folder.
  explicit GenomeInput(InputOptions options);

  const std::string& name() const { return display_name_; }
  const std::vector<io::ContigInfo>& contigs() const { return contigs_; }
  // What is wanted: the regions in the order given, or every contig as a whole.
  const std::vector<io::Region>& regions() const { return regions_; }
  bool whole_contigs() const { return index_ == nullptr; }
  // IUPAC codes read as N: in the whole file, or with regions in the bases that were read so far.
  int64_t iupac_count() const { return whole_contigs() ? iupac_ : index_->iupac_count(); }

  int64_t bases_wanted() const;
  // Calls visit for every pass of the job, contig after contig.
  void for_each_pass(StrandChoice strand, const ReadPlan& plan,
                     const std::function<void(const Pass&)>& visit) const;
  // Most bases of one contig that wait in scratch space for a reverse pass.
  int64_t spool_bytes(StrandChoice strand) const;

  // The passes of the job, contig after contig in the order of the file; for each contig the reverse
  // passes first. The input must outlive the result; take one at a time.
  NextPass passes(StrandChoice strand, const ReadPlan& plan);

 private:
  struct ContigWork {
    size_t contig = 0;  // index into contigs_
    std::vector<Segment> segments;
  };

  InputOptions options_;
  std::string display_name_;
  std::string path_;  // to read: options_.path, or the spool's
  std::optional<io::InputSpool> spool_;
  std::unique_ptr<io::FastaIndex> index_;  // only with regions
  std::vector<io::ContigInfo> contigs_;
  std::vector<io::Region> regions_;
  std::vector<ContigWork> work_;
  int64_t iupac_ = 0;
};

}  // namespace chromamba::pipelines
