#include "pipelines/base_source.h"

#include <algorithm>
#include <vector>

#include "kernels/base/error.h"

namespace chromamba::pipelines {
namespace {

// The file was checked once before; a different answer now means that somebody changes it.
[[noreturn]] void throw_changed(const io::FastaReader& reader) {
  throw DataError(reader.display_name() + ": contig " + reader.name() +
                  " is shorter than at the first reading: the file changed meanwhile");
}

}  // namespace

void SequentialBases::read(int64_t start, int64_t n, char* out) {
  if (start != reader_.position()) throw InternalError("SequentialBases: reads must be in order");
  if (reader_.read(out, n) != n) throw_changed(reader_);
}

void IndexedBases::read(int64_t start, int64_t n, char* out) {
  index_.fetch(contig_, start, n, out);
}

SpooledBases::SpooledBases(io::FastaReader& reader, const std::string& folder, int64_t length)
    : file_(folder) {
  std::vector<char> block(1 << 20);
  for (int64_t at = 0; at < length;) {
    const int64_t n =
        reader.read(block.data(), std::min(static_cast<int64_t>(block.size()), length - at));
    if (n == 0) throw_changed(reader);
    file_.write(at, block.data(), n);
    at += n;
  }
}

void SpooledBases::read(int64_t start, int64_t n, char* out) { file_.read(start, out, n); }

}  // namespace chromamba::pipelines
