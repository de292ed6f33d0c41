#include "pipelines/job.h"

#include <catch2/catch.hpp>

#include "kernels/base/error.h"
#include "pipelines/score.h"

namespace chromamba::pipelines {
namespace {

TEST_CASE("numbers for people") {
  CHECK(with_commas(0) == "0");
  CHECK(with_commas(999) == "999");
  CHECK(with_commas(1000) == "1,000");
  CHECK(with_commas(1234567) == "1,234,567");
  CHECK(with_commas(-1000) == "-1,000");
  CHECK(human_bytes(12) == "12 bytes");
  CHECK(human_bytes(int64_t{3} << 30) == "3.0 GiB");
}

TEST_CASE("output kinds come from the suffix or from -O") {
  CHECK(parse_score_output("a.h5", "").format == ScoreFormat::hdf5);
  CHECK(parse_score_output("a.b.bw", "").format == ScoreFormat::bigwig);
  CHECK(parse_score_output("a.bedGraph", "").format == ScoreFormat::bedgraph);
  CHECK(parse_score_output("a.bedgraph.gz", "").bgzip);
  CHECK(parse_score_output("a.tsv", "").format == ScoreFormat::table);
  CHECK_FALSE(parse_score_output("a.tsv", "").bgzip);
  CHECK(parse_score_output("-", "").format == ScoreFormat::table);
  CHECK(parse_score_output("-", "bedgraph").format == ScoreFormat::bedgraph);
  CHECK(parse_score_output("odd.name", "h5").format == ScoreFormat::hdf5);
  CHECK_THROWS_AS(parse_score_output("a.txt", ""), UsageError);
  CHECK_THROWS_AS(parse_score_output("h5", ""), UsageError);
  CHECK_THROWS_AS(parse_score_output("a.h5", "bam2"), UsageError);
  CHECK_THROWS_AS(parse_score_output("-", "h5"), UsageError);
}

TEST_CASE("the chunk size shrinks to the memory, or says what it needs") {
  const mamba::Model model = mamba::Model::built_in();
  JobOptions options;
  options.threads = 2;
  StreamOptions stream;
  stream.log_likelihood = true;
  stream.layer = 0;
  CHECK(plan_chunk_size(options, model, stream, 1) == 65536);
  options.memory = int64_t{200} << 20;
  const int64_t smaller = plan_chunk_size(options, model, stream, 1);
  CHECK((smaller < 65536 && smaller >= 256));
  // Pooled rows take the place of those that they are the means of.
  for (const int64_t bin : {int64_t{128}, kWholeSegment}) {
    stream.bin = bin;
    CHECK(plan_chunk_size(options, model, stream, 1) == 65536);
  }
  stream.bin = 1;
  options.chunk_size = 65536;
  CHECK_THROWS_AS(plan_chunk_size(options, model, stream, 1), ResourceError);
  options.chunk_size = 0;
  options.memory = 1 << 20;
  CHECK_THROWS_WITH(plan_chunk_size(options, model, stream, 1), Catch::Contains("--memory"));
}

TEST_CASE("on a GPU, pooled rows leave room for chunks as large as those of log-likelihoods") {
  const mamba::Model model = mamba::Model::built_in();
  JobOptions options;
  options.device.cuda = true;
  options.memory = int64_t{1} << 30;
  StreamOptions scores;
  scores.log_likelihood = true;
  StreamOptions rows;
  rows.layer = mamba::kFinalLayer;
  const int64_t largest = plan_chunk_size(options, model, scores, 1);
  CHECK(plan_chunk_size(options, model, rows, 1) < largest);
  for (const int64_t bin : {int64_t{128}, int64_t{1000}, kWholeSegment}) {
    rows.bin = bin;
    CHECK(plan_chunk_size(options, model, rows, 1) == largest);
  }
}

TEST_CASE("several GPUs take larger chunks, and eight fit the default memory") {
  const mamba::Model model = mamba::Model::built_in();
  JobOptions options;
  options.device.cuda = true;
  options.memory = int64_t{4} << 30;
  StreamOptions stream;
  stream.log_likelihood = true;
  const int64_t one = plan_chunk_size(options, model, stream, 1);
  options.device.ordinals = {0, 1};
  CHECK(plan_chunk_size(options, model, stream, 1) == 4 * one);
  options.device.ordinals = {0, 1, 2, 3, 4, 5, 6, 7};
  CHECK(plan_chunk_size(options, model, stream, 1) > 4 * one);
  options.memory = int64_t{1} << 30;
  CHECK_THROWS_AS(plan_chunk_size(options, model, stream, 1), ResourceError);
}

TEST_CASE("a job that does not fit the disk is refused before it starts") {
  CHECK_NOTHROW(require_disk({{".", 1}}));
  CHECK_THROWS_AS(require_disk({{".", int64_t{1} << 60}}), ResourceError);
  // Two outputs that fit one at a time, but not together.
  CHECK_THROWS_AS(require_disk({{".", int64_t{1} << 59}, {".", int64_t{1} << 59}}), ResourceError);
}

TEST_CASE("means of nothing are not numbers") {
  const StrandSummary none;
  CHECK(std::isnan(none.mean()));
  CHECK(std::isnan(none.perplexity()));
  const StrandSummary two{2, -2 * std::log(4.0)};
  CHECK(two.perplexity() == Approx(4.0));
  CHECK(two.bits_per_base() == Approx(2.0));
}

}  // namespace
}  // namespace chromamba::pipelines
