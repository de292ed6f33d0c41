#include "app/commands.h"
#include "app/options.h"
#include "app/version.h"
#include "kernels/base/error.h"
#include "kernels/exec.h"

#include <iostream>

namespace chromamba::app {
namespace {

constexpr char kUsage[] =
    R"(usage: chromamba info [MODEL]

Describes a checkpoint (a folder or a weights file), or the built-in model: what it is, its sizes,
what it carries from base to base, and what this program can do with it.
)";

void row(const std::string& name, const std::string& value) {
  std::cout << name << '\t' << value << '\n';
}

}  // namespace

int info_command(const Arguments& arguments) {
  CommandLine line(kUsage, "model", 1);
  if (!line.parse(arguments)) return 0;
  const std::vector<std::string> paths = line.texts("model");
  const mamba::Model model = paths.empty() ? mamba::Model::built_in()
                                           : mamba::Model(mamba::open_checkpoint(paths.front()));
  const mamba::ModelConfig& config = model.config();
  row("model", model.name());
  row("sha256", model.sha256());
  row("family", config.family + " (Mamba-1)");
  row("objective", config.objective + " (next base)");
  row("parameters", pipelines::with_commas(model.parameter_count()));
  row("layers", std::to_string(config.n_layer));
  row("d_model", std::to_string(config.d_model));
  row("d_inner", std::to_string(config.d_inner));
  row("d_state", std::to_string(config.d_state));
  row("d_conv", std::to_string(config.d_conv));
  row("dt_rank", std::to_string(config.dt_rank));
  row("vocabulary", std::to_string(config.vocab_size) + " (" +
                        std::to_string(config.vocab_size_unpadded) + " before padding)");
  const mamba::Tokenizer& tokens = model.tokenizer();
  row("tokens", "A " + std::to_string(tokens.a) + ", C " + std::to_string(tokens.c) + ", G " +
                    std::to_string(tokens.g) + ", T " + std::to_string(tokens.t) + ", N " +
                    std::to_string(tokens.n));
  row("norm", std::string(config.rms_norm ? "RMSNorm" : "LayerNorm"));
  row("head", config.tie_embeddings ? "tied to the embedding" : "its own");
  row("state_bytes_per_sequence", std::to_string(model.state_bytes()));
  row("gemm_flops_per_base", std::to_string(model.matmul_flops()));
  row("embedding_bytes_per_base", std::to_string(2 * config.d_model) + " (f16)");
  row("score", "yes: ln p of each base given all before it");
  row("embed", "yes: layers 0 to " + std::to_string(config.n_layer) + ", and final");
  row("strands", "forward, reverse, both");
  row("device", "cpu " + kernels::cpu_backend_name());
  for (const std::string& device : kernels::describe_cuda_devices()) {
    row("gpu", device);
  }
  row("chromamba_version", kVersion);
  return 0;
}

}  // namespace chromamba::app
