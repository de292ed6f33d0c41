// The published models through Model itself: parameters as on their cards, whatever way the tied
// tensors are stored.
#include <catch2/catch.hpp>

#include "mamba/checkpoint.h"
#include "mamba/model.h"
#include "tests/mamba/checkpoint_bytes.h"
#include "tests/mamba/published_checkpoint.h"

namespace chromamba::mamba {
namespace {

using testing::PublishedModel;
using testing::Ties;

void check_loads(const PublishedModel& published, const std::string& file, int64_t parameters) {
  const Model model(
      open_checkpoint_memory(published.config.dump(), testing::as_bytes(file), published.name));
  CHECK(model.parameter_count() == parameters);
  CHECK(model.config().objective == "masked");
  CHECK(model.config().n_layer == published.config["n_layer"].get<int64_t>());
  CHECK(model.tokenizer().mask >= 0);
  CHECK(model.blocks().size() == static_cast<size_t>(model.config().n_layer));
}

TEST_CASE("published Caduceus models load with the parameters on their cards") {
  for (const PublishedModel& published : testing::published_models()) {
    INFO(published.name);
    check_loads(published, safetensors_file(published, Ties::first), published.card_parameters);
  }
}

void check_forms(bool mamba2) {
  for (const PublishedModel& published : testing::small_models()) {
    if (testing::contains(published.name, "PlantCAD2") != mamba2) continue;
    const int64_t parameters = testing::unique_parameters(published);
    for (const Ties ties : {Ties::both, Ties::first, Ties::second, Ties::aliased}) {
      INFO(published.name << ", ties " << static_cast<int>(ties));
      check_loads(published, safetensors_file(published, ties), parameters);
    }
    for (const char* dtype : {"F16", "BF16"}) {
      INFO(published.name << ", " << dtype);
      check_loads(published, safetensors_file(published, Ties::first, dtype), parameters);
    }
    const testing::TemporaryFolder folder;
    folder.write("config.json", published.config.dump());
    folder.write("pytorch_model.bin", testing::torch_file(published));
    CHECK(Model(open_checkpoint(folder.path())).parameter_count() == parameters);
  }
}

TEST_CASE("Caduceus models of every form load, however their ties are stored") {
  check_forms(false);
}

TEST_CASE("Caduceus around Mamba-2 loads, however its ties are stored", "") { check_forms(true); }

}  // namespace
}  // namespace chromamba::mamba
