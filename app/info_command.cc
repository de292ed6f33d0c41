#include "app/commands.h"
#include "app/options.h"
#include "app/version.h"
#include "kernels/base/error.h"
#include "kernels/exec.h"
#include "mamba/sweep_engine.h"

#include <iostream>

namespace chromamba::app {
namespace {

constexpr char kUsage[] =
    R"(usage: chromamba info [MODEL]

Describes a checkpoint (a folder or a weights file), or the built-in model: what it is, its sizes,
what it carries from base to base, and what this program can do with it.
)";

using mamba::Directions;

void row(const std::string& name, const std::string& value) {
  std::cout << name << '\t' << value << '\n';
}

void row(const std::string& name, int64_t value) { row(name, std::to_string(value)); }

std::string family_text(const mamba::ModelConfig& config) {
  std::string text =
      config.family + (config.mixer == mamba::MixerKind::mamba2 ? ", Mamba-2" : ", Mamba-1");
  if (config.directions != Directions::forward) {
    text += config.directions == Directions::add ? ", both directions (add"
                                                 : ", both directions (multiply";
    text += config.tied_directions ? ", tied)" : ")";
  }
  return text + (config.rcps ? ", reverse-complement equivariant" : "");
}

void mixer_rows(const mamba::ModelConfig& config) {
  row("d_inner", config.d_inner);
  row("d_state", config.d_state);
  row("d_conv", config.d_conv);
  if (config.mixer == mamba::MixerKind::mamba1) {
    row("dt_rank", config.dt_rank);
    return;
  }
  row("heads", config.n_heads);
  row("head_dim", config.head_dim);
  row("groups", config.n_groups);
}

// What a base or a sequence costs, and which commands take the model.
void use_rows(const mamba::Model& model) {
  const mamba::ModelConfig& config = model.config();
  const bool masked = config.objective == "masked";
  const bool sweeps = config.directions != Directions::forward || config.rcps;
  if (sweeps) {
    row("memory_bytes_per_base", mamba::SweepEngine::store_bytes(model, {}));
  } else {
    row("state_bytes_per_sequence", model.state_bytes());
  }
  row("gemm_flops_per_base", model.matmul_flops());
  row("embedding_bytes_per_base",
      std::to_string(2 * config.d_model) + " (f16)" +
          (config.rcps ? ", " + std::to_string(4 * config.d_model) + " with --strand both" : ""));
  if (!masked) {
    row("score", "yes: ln p of each base given all before it");
  } else {
    row("score", std::string("yes: ln p of each base read unmasked") +
                     (model.tokenizer().mask >= 0
                          ? ", or hidden in turn with --mask-stride"
                          : "; no --mask-stride, since the vocabulary has no mask token"));
  }
  row("embed", "yes: layers 0 to " + std::to_string(config.n_layer) + ", and final");
  row("strands", std::string("forward, reverse, both, mean") +
                     (config.rcps ? " of embeddings; a likelihood has both" : ""));
}

}  // namespace

int info_command(const Arguments& arguments) {
  CommandLine line(kUsage, "model", 1);
  if (!line.parse(arguments)) return 0;
  const std::vector<std::string> paths = line.texts("model");
  const mamba::Model model = paths.empty() ? mamba::Model::built_in()
                                           : mamba::Model(mamba::open_checkpoint(paths.front()));
  const mamba::ModelConfig& config = model.config();
  const bool masked = config.objective == "masked";
  row("model", model.name());
  row("sha256", model.sha256());
  row("family", family_text(config));
  row("objective", config.objective + (masked ? " (a hidden base)" : " (next base)"));
  row("rc_equivariant", config.rcps ? "yes" : "no");
  if (config.trained_bases > 0) row("trained_bases", config.trained_bases);
  row("parameters", pipelines::with_commas(model.parameter_count()));
  row("layers", config.n_layer);
  row("d_model", config.d_model);
  mixer_rows(config);
  row("vocabulary", std::to_string(config.vocab_size) + " (" +
                        std::to_string(config.vocab_size_unpadded) + " before padding)");
  const mamba::Tokenizer& tokens = model.tokenizer();
  row("tokens", "A " + std::to_string(tokens.a) + ", C " + std::to_string(tokens.c) + ", G " +
                    std::to_string(tokens.g) + ", T " + std::to_string(tokens.t) + ", N " +
                    std::to_string(tokens.n) +
                    (masked && tokens.mask >= 0 ? ", mask " + std::to_string(tokens.mask) : ""));
  row("norm", std::string(config.rms_norm ? "RMSNorm" : "LayerNorm"));
  row("head", config.tie_embeddings ? "tied to the embedding" : "its own");
  use_rows(model);
  row("device", "cpu " + kernels::cpu_backend_name());
  for (const std::string& device : kernels::describe_cuda_devices()) {
    row("gpu", device);
  }
  row("chromamba_version", kVersion);
  return 0;
}

}  // namespace chromamba::app
