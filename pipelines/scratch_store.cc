#include "pipelines/scratch_store.h"

#include <utility>

#include "io/pending_file.h"

namespace chromamba::pipelines {
namespace {

class ScratchStore : public mamba::Store {
 public:
  explicit ScratchStore(const std::string& folder) : file_(folder) {}
  void read(int64_t offset, void* to, int64_t bytes) const override {
    file_.read(offset, to, bytes);
  }
  void write(int64_t offset, const void* from, int64_t bytes) override {
    file_.write(offset, from, bytes);
  }

 private:
  io::ScratchFile file_;
};

}  // namespace

mamba::MakeStore scratch_stores(std::string folder) {
  return [folder = std::move(folder)](int64_t) { return std::make_unique<ScratchStore>(folder); };
}

}  // namespace chromamba::pipelines
