#include <map>
#include <nlohmann/json.hpp>
#include <span>

#include "tests/mamba/fixture.h"

namespace chromamba::tests {

mamba::Checkpoint made_checkpoint(const std::string& config_text, unsigned seed,
                                  const std::string& huge) {
  const nlohmann::json config = nlohmann::json::parse(config_text);
  const nlohmann::json ssm = config.value("ssm_cfg", nlohmann::json::object());
  const int64_t width = config["d_model"];
  const int64_t vocab = 16;
  const int64_t inner = width * ssm.value("expand", 2);
  const bool second = ssm.value("layer", "Mamba1") == "Mamba2";
  const int64_t states = ssm.value("d_state", second ? 128 : 16);
  const int64_t heads = second ? inner / ssm.value("headdim", 64) : 0;
  const int64_t taps = ssm.value("d_conv", 4);
  const int64_t rank = ssm.value("dt_rank", (width + 15) / 16);

  std::map<std::string, std::vector<int64_t>> shapes;
  shapes["backbone.embedding.weight"] = {vocab, width};
  if (!config.value("tie_embeddings", true)) shapes["lm_head.weight"] = {vocab, width};
  const auto add_norm = [&](const std::string& name) {
    shapes[name + ".weight"] = {width};
    if (!config.value("rms_norm", true)) shapes[name + ".bias"] = {width};
  };
  add_norm("backbone.norm_f");
  for (int64_t layer = 0; layer < config["n_layer"].get<int64_t>(); ++layer) {
    const std::string block = "backbone.layers." + std::to_string(layer) + ".";
    add_norm(block + "norm");
    const std::string mixer = block + "mixer.";
    const int64_t mixed = second ? inner + 2 * ssm.value("ngroups", 1) * states : inner;
    const int64_t wide = inner + (second ? mixed + heads : inner);
    shapes[mixer + "in_proj.weight"] = {wide, width};
    shapes[mixer + "out_proj.weight"] = {width, inner};
    if (ssm.value("bias", false)) {
      shapes[mixer + "in_proj.bias"] = {wide};
      shapes[mixer + "out_proj.bias"] = {width};
    }
    shapes[mixer + "conv1d.weight"] = {mixed, 1, taps};
    if (ssm.value("conv_bias", true)) shapes[mixer + "conv1d.bias"] = {mixed};
    if (second) {
      shapes[mixer + "dt_bias"] = {heads};
      shapes[mixer + "A_log"] = {heads};
      shapes[mixer + "D"] = {ssm.value("D_has_hdim", false) ? inner : heads};
      if (ssm.value("rmsnorm", true)) shapes[mixer + "norm.weight"] = {inner};
      continue;
    }
    shapes[mixer + "x_proj.weight"] = {rank + 2 * states, inner};
    shapes[mixer + "dt_proj.weight"] = {inner, rank};
    shapes[mixer + "dt_proj.bias"] = {inner};
    shapes[mixer + "A_log"] = {inner, states};
    shapes[mixer + "D"] = {inner};
  }

  nlohmann::json header;
  std::vector<float> data;
  for (const auto& [name, shape] : shapes) {
    int64_t n = 1;
    for (const int64_t size : shape) n *= size;
    const AlignedFloats values = random_values(n, seed++, 0.0F, name == huge ? 4e35F : 0.4F);
    header[name] = {{"dtype", "F32"},
                    {"shape", shape},
                    {"data_offsets", {4 * data.size(), 4 * (data.size() + values.size())}}};
    data.insert(data.end(), values.begin(), values.end());
  }
  const std::string text = header.dump();
  // The store reads from these bytes as long as it lives: they stay for the rest of the test run.
  static std::vector<std::unique_ptr<std::string>> files;
  files.push_back(std::make_unique<std::string>());
  std::string& bytes = *files.back();
  const uint64_t length = text.size();
  bytes.append(reinterpret_cast<const char*>(&length), sizeof length);
  bytes += text;
  bytes.append(reinterpret_cast<const char*>(data.data()), 4 * data.size());
  return mamba::open_checkpoint_memory(config_text, std::as_bytes(std::span<const char>(bytes)),
                                       "made");
}

}  // namespace chromamba::tests
