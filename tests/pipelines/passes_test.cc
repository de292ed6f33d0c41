// What a job's passes take: memory, disk and bases, and which options its model has.
#include "pipelines/passes.h"

#include <catch2/catch.hpp>
#include <fstream>

#include "kernels/base/error.h"
#include "tests/io/support.h"
#include "tests/random_values.h"
#include "tests/test_data.h"

namespace chromamba::pipelines {
namespace {

// A FASTA file of one contig.
class Contig {
 public:
  explicit Contig(int64_t bases) {
    std::ofstream(path_) << ">c\n" << tests::random_dna(bases, 1) << "\n";
  }

  GenomeInput open() const {
    InputOptions options;
    options.path = path_;
    return GenomeInput(options);
  }

 private:
  io::testing::TempFolder folder_;
  std::string path_ = folder_ / "contig.fa";
};

mamba::Model model_of(const std::string& name) {
  return mamba::Model(mamba::open_checkpoint(tests::test_data() + "/" + name));
}

PassWanted scores() {
  PassWanted wanted;
  wanted.log_likelihood = true;
  return wanted;
}

// What the job announces.
int64_t announced(const JobOptions& options, const mamba::Model& model, GenomeInput& input,
                  const PassWanted& wanted) {
  JobOptions job = options;
  int64_t bases = -1;
  std::atomic<int64_t> done{0};
  job.started = [&](int64_t n) { bases = n; };
  job.bases_done = &done;
  Passes passes(job, model, input, wanted);
  const StreamStats stats = passes.run([](const Part&) {});
  CHECK(stats.bases == bases);
  CHECK(done == bases);
  return bases;
}

TEST_CASE("bases to read are those of all strands, windows and masks") {
  const Contig contig(3000);
  GenomeInput input = contig.open();
  const mamba::Model model = model_of("caduceus_ph");
  JobOptions job;
  PassWanted wanted = scores();
  CHECK(announced(job, model, input, wanted) == 3000);
  job.strand = StrandChoice::mean;
  CHECK(announced(job, model, input, wanted) == 6000);
  wanted.mask_stride = 3;
  CHECK(announced(job, model, input, wanted) == 18000);
  job.windows = {1000, 500};
  CHECK(announced(job, model, input, wanted) == 30000);
  CHECK(announced({}, model_of("mamba1_long"), input, scores()) == 3000);
  CHECK(announced({}, model_of("caduceus_ps"), input, scores()) == 3000);
}

TEST_CASE("activations take what --memory leaves, and a file beyond") {
  const Contig contig(200000);
  GenomeInput input = contig.open();
  const mamba::Model model = model_of("caduceus_ph");
  const int64_t rows = 200000 * mamba::SweepEngine::store_bytes(model, {});  // 73 MiB
  JobOptions job;
  CHECK(Passes(job, model, input, scores()).scratch().bytes == 0);
  // Smaller blocks let the rows stay in memory.
  job.memory = rows + (int64_t{112} << 20);
  CHECK(Passes(job, model, input, scores()).scratch().bytes == 0);
  job.memory = int64_t{120} << 20;
  CHECK(Passes(job, model, input, scores()).scratch().bytes == rows);
  job.strand = StrandChoice::both;  // and the contig, for the way back
  CHECK(Passes(job, model, input, scores()).scratch().bytes == rows + 200000);
  job.memory = int64_t{90} << 20;
  CHECK_THROWS_AS(Passes(job, model, input, scores()), ResourceError);
  job.memory = int64_t{120} << 20;
  job.chunk_size = int64_t{1} << 20;
  CHECK_THROWS_WITH(Passes(job, model, input, scores()), Catch::Contains("--chunk-size"));
}

TEST_CASE("options that a model does not have") {
  const Contig contig(100);
  GenomeInput input = contig.open();
  const mamba::Model causal = model_of("mamba1_long");
  const mamba::Model equivariant = model_of("caduceus_ps");
  JobOptions job;
  PassWanted masked = scores();
  masked.mask_stride = 0;
  CHECK_THROWS_AS(Passes(job, causal, input, masked), UsageError);
  CHECK_NOTHROW(Passes(job, equivariant, input, masked));
  PassWanted rows;
  rows.layer = 0;
  for (const StrandChoice strand :
       {StrandChoice::reverse, StrandChoice::both, StrandChoice::mean}) {
    job.strand = strand;
    CHECK_THROWS_AS(Passes(job, equivariant, input, scores()), UsageError);
    const Passes passes(job, equivariant, input, rows);
    CHECK_FALSE(passes.two_strands());
    CHECK(passes.hidden_width() == (strand == StrandChoice::both ? 96 : 48));
    CHECK(Passes(job, causal, input, rows).two_strands() == reads_both(strand));
  }
  job.windows = {100, 0};
  CHECK_THROWS_AS(Passes(job, causal, input, scores()), UsageError);
}

}  // namespace
}  // namespace chromamba::pipelines
