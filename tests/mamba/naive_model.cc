#include "tests/mamba/naive_model.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

namespace chromamba::tests {
namespace {

using nlohmann::json;

struct Rows {
  Rows(int64_t rows, int64_t columns)
      : length(rows), width(columns), values(static_cast<size_t>(rows * columns)) {}

  double& at(int64_t row, int64_t column) {
    return values[static_cast<size_t>(row * width + column)];
  }
  double at(int64_t row, int64_t column) const {
    return values[static_cast<size_t>(row * width + column)];
  }

  int64_t length;
  int64_t width;
  std::vector<double> values;
};

// --- the file ---

// config[key], or `fallback` where the key is missing or null.
template <typename Value>
Value setting(const json& config, const std::string& key, const Value& fallback) {
  const auto found = config.find(key);
  return found == config.end() || found->is_null() ? fallback : found->get<Value>();
}

class Weights {
 public:
  explicit Weights(const mamba::TensorStore& store) : store_(store) {}

  bool has(const std::string& name) const { return store_.find(name) != nullptr; }

  std::string first_of(const std::vector<std::string>& names) const {
    for (const std::string& name : names) {
      if (has(name)) return name;
    }
    throw std::runtime_error("no tensor " + names.front());
  }

  // A matrix [rows, the rest of the shape]; a vector is one column.
  Rows read(const std::string& name) const {
    const mamba::TensorInfo* info = store_.find(name);
    if (info == nullptr) throw std::runtime_error("no tensor " + name);
    if (info->shape.empty()) throw std::runtime_error(name + " is a scalar");
    std::vector<float> values(static_cast<size_t>(info->numel));
    store_.read_f32(*info, values.data());
    Rows result(info->shape[0], info->numel / info->shape[0]);
    std::copy(values.begin(), values.end(), result.values.begin());
    return result;
  }

  // The same, or `rows` zeros where the file has no such tensor.
  Rows read_or_zeros(const std::string& name, int64_t rows) const {
    return has(name) ? read(name) : Rows(rows, 1);
  }

 private:
  const mamba::TensorStore& store_;
};

void require(bool fits, const std::string& what) {
  if (!fits) throw std::runtime_error("shapes do not fit: " + what);
}

// --- rows ---

Rows added(const Rows& a, const Rows& b) {
  require(a.length == b.length && a.width == b.width, "sum");
  Rows result(a.length, a.width);
  for (size_t i = 0; i < a.values.size(); ++i) result.values[i] = a.values[i] + b.values[i];
  return result;
}

Rows multiplied(const Rows& a, const Rows& b) {
  require(a.length == b.length && a.width == b.width, "product");
  Rows result(a.length, a.width);
  for (size_t i = 0; i < a.values.size(); ++i) result.values[i] = a.values[i] * b.values[i];
  return result;
}

Rows columns(const Rows& x, int64_t first, int64_t count) {
  require(first >= 0 && first + count <= x.width, "columns");
  Rows result(x.length, count);
  for (int64_t t = 0; t < x.length; ++t) {
    for (int64_t c = 0; c < count; ++c) result.at(t, c) = x.at(t, first + c);
  }
  return result;
}

Rows side_by_side(const Rows& a, const Rows& b) {
  require(a.length == b.length, "halves");
  Rows result(a.length, a.width + b.width);
  for (int64_t t = 0; t < a.length; ++t) {
    for (int64_t c = 0; c < a.width; ++c) result.at(t, c) = a.at(t, c);
    for (int64_t c = 0; c < b.width; ++c) result.at(t, a.width + c) = b.at(t, c);
  }
  return result;
}

Rows first_half(const Rows& x) { return columns(x, 0, x.width / 2); }
Rows second_half(const Rows& x) { return columns(x, x.width / 2, x.width / 2); }

Rows flip_L(const Rows& x) {
  Rows result(x.length, x.width);
  for (int64_t t = 0; t < x.length; ++t) {
    for (int64_t c = 0; c < x.width; ++c) result.at(t, c) = x.at(x.length - 1 - t, c);
  }
  return result;
}

Rows flip_D(const Rows& x) {
  Rows result(x.length, x.width);
  for (int64_t t = 0; t < x.length; ++t) {
    for (int64_t c = 0; c < x.width; ++c) result.at(t, c) = x.at(t, x.width - 1 - c);
  }
  return result;
}

Rows flip_LD(const Rows& x) { return flip_L(flip_D(x)); }

// --- layers ---

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double silu(double x) { return x * sigmoid(x); }
double softplus(double x) { return x > 30 ? x : std::log1p(std::exp(x)); }

// x Wᵀ
Rows linear(const Rows& x, const Rows& weight) {
  require(x.width == weight.width, "linear");
  Rows result(x.length, weight.length);
  for (int64_t t = 0; t < x.length; ++t) {
    for (int64_t o = 0; o < weight.length; ++o) {
      double sum = 0;
      for (int64_t i = 0; i < x.width; ++i) sum += x.at(t, i) * weight.at(o, i);
      result.at(t, o) = sum;
    }
  }
  return result;
}

// x Wᵀ + b
Rows linear(const Rows& x, const Rows& weight, const Rows& bias) {
  require(bias.length == weight.length, "linear bias");
  Rows result = linear(x, weight);
  for (int64_t t = 0; t < x.length; ++t) {
    for (int64_t o = 0; o < weight.length; ++o) result.at(t, o) += bias.at(o, 0);
  }
  return result;
}

// SiLU of the convolution with taps [channels, K], the last tap on the row itself.
Rows causal_conv_silu(const Rows& x, const Rows& taps, const Rows& bias) {
  require(x.width == taps.length && bias.length == taps.length, "convolution");
  Rows result(x.length, x.width);
  for (int64_t t = 0; t < x.length; ++t) {
    for (int64_t c = 0; c < x.width; ++c) {
      double sum = bias.at(c, 0);
      for (int64_t k = 0; k < taps.width; ++k) {
        const int64_t from = t - (taps.width - 1) + k;
        if (from >= 0) sum += taps.at(c, k) * x.at(from, c);
      }
      result.at(t, c) = silu(sum);
    }
  }
  return result;
}

// The channels in `groups` equal parts, each by itself.
Rows rms_norm(const Rows& x, const Rows& weight, double eps, int64_t groups = 1) {
  require(weight.length == x.width && x.width % groups == 0, "RMSNorm");
  const int64_t size = x.width / groups;
  Rows result(x.length, x.width);
  for (int64_t t = 0; t < x.length; ++t) {
    for (int64_t g = 0; g < groups; ++g) {
      double squares = 0;
      for (int64_t c = g * size; c < (g + 1) * size; ++c) squares += x.at(t, c) * x.at(t, c);
      const double scale = 1 / std::sqrt(squares / static_cast<double>(size) + eps);
      for (int64_t c = g * size; c < (g + 1) * size; ++c) {
        result.at(t, c) = x.at(t, c) * scale * weight.at(c, 0);
      }
    }
  }
  return result;
}

Rows layer_norm(const Rows& x, const Rows& weight, const Rows& bias, double eps) {
  require(weight.length == x.width && bias.length == x.width, "LayerNorm");
  const auto size = static_cast<double>(x.width);
  Rows result(x.length, x.width);
  for (int64_t t = 0; t < x.length; ++t) {
    double mean = 0;
    for (int64_t c = 0; c < x.width; ++c) mean += x.at(t, c) / size;
    double variance = 0;
    for (int64_t c = 0; c < x.width; ++c) {
      variance += (x.at(t, c) - mean) * (x.at(t, c) - mean) / size;
    }
    const double scale = 1 / std::sqrt(variance + eps);
    for (int64_t c = 0; c < x.width; ++c) {
      result.at(t, c) = (x.at(t, c) - mean) * scale * weight.at(c, 0) + bias.at(c, 0);
    }
  }
  return result;
}

// --- mixers ---

class Model {
 public:
  Model(const mamba::TensorStore& tensors, const json& config)
      : weights_(tensors),
        config_(config),
        ssm_(setting(config, "ssm_cfg", json::object())),
        hugging_face_(config.contains("hidden_size")),
        caduceus_(setting<std::string>(config, "model_type", "") == "caduceus"),
        rcps_(caduceus_ && setting(config, "rcps", false)),
        swaps_(rcps_ && setting(config, "fused_add_norm", true)),
        backbone_(caduceus_ ? "caduceus.backbone." : "backbone.") {}

  NaiveOutputs forward(const std::vector<int32_t>& tokens) const;

 private:
  double eps() const {
    return setting(config_, hugging_face_ ? "layer_norm_epsilon" : "norm_epsilon", 1e-5);
  }

  // One of the norms of the residual stream, over D channels.
  Rows norm(const std::string& name, const Rows& x) const {
    // Of RC-equivariant models without fused_add_norm each is wrapped.
    const std::string inside = rcps_ && !swaps_ ? name + ".submodule" : name;
    const Rows weight = weights_.read(inside + ".weight");
    if (setting(config_, "rms_norm", true)) return rms_norm(x, weight, eps());
    return layer_norm(x, weight, weights_.read(inside + ".bias"), eps());
  }

  // in_proj or out_proj of the mixer `name`; where it is shared with `other`, under either name.
  std::string projection(const std::string& name, const std::string& other,
                         const std::string& which) const {
    if (other.empty()) return name + "." + which;
    const std::string weight =
        weights_.first_of({name + "." + which + ".weight", other + "." + which + ".weight"});
    return weight.substr(0, weight.size() - std::string(".weight").size());
  }

  Rows project(const std::string& name, const Rows& x) const {
    const Rows weight = weights_.read(name + ".weight");
    return linear(x, weight, weights_.read_or_zeros(name + ".bias", weight.length));
  }

  Rows mixer(const std::string& name, const std::string& other, const Rows& x) const {
    const std::string in = projection(name, other, "in_proj");
    const std::string out = projection(name, other, "out_proj");
    const Rows projected = project(in, x);
    const Rows y =
        weights_.has(name + ".dt_bias") ? mamba2(name, projected) : mamba1(name, projected);
    return project(out, y);
  }

  Rows mamba1(const std::string& name, const Rows& projected) const;
  Rows mamba2(const std::string& name, const Rows& projected) const;
  Rows both_directions(const std::string& name, const Rows& x) const;

  Rows embed(const std::vector<int32_t>& tokens) const;
  Rows head(const Rows& x) const;
  std::vector<int32_t> complement(int64_t vocab) const;

  Weights weights_;
  const json& config_;
  json ssm_;
  bool hugging_face_;
  bool caduceus_;
  bool rcps_;
  bool swaps_;  // the halves, before each block
  std::string backbone_;
};

// Gu & Dao 2023 between in_proj and out_proj.
Rows Model::mamba1(const std::string& name, const Rows& projected) const {
  const Rows A_log = weights_.read(name + ".A_log");
  const int64_t inner = A_log.length;
  const int64_t states = A_log.width;
  require(projected.width == 2 * inner, name + ".in_proj");
  const Rows u =
      causal_conv_silu(columns(projected, 0, inner), weights_.read(name + ".conv1d.weight"),
                       weights_.read_or_zeros(name + ".conv1d.bias", inner));
  const Rows z = columns(projected, inner, inner);

  const Rows dt_weight = weights_.read(name + ".dt_proj.weight");
  const int64_t rank = dt_weight.width;
  const Rows dBC = linear(u, weights_.read(name + ".x_proj.weight"));
  require(dBC.width == rank + 2 * states, name + ".x_proj");
  const Rows dt = linear(columns(dBC, 0, rank), dt_weight, weights_.read(name + ".dt_proj.bias"));
  const Rows Bmat = columns(dBC, rank, states);
  const Rows Cmat = columns(dBC, rank + states, states);
  const Rows D_skip = weights_.read(name + ".D");

  Rows h(inner, states);
  Rows y(u.length, inner);
  for (int64_t t = 0; t < u.length; ++t) {
    for (int64_t e = 0; e < inner; ++e) {
      const double step = softplus(dt.at(t, e));
      double sum = 0;
      for (int64_t n = 0; n < states; ++n) {
        const double A = -std::exp(A_log.at(e, n));
        h.at(e, n) = std::exp(step * A) * h.at(e, n) + step * u.at(t, e) * Bmat.at(t, n);
        sum += h.at(e, n) * Cmat.at(t, n);
      }
      y.at(t, e) = (sum + D_skip.at(e, 0) * u.at(t, e)) * silu(z.at(t, e));
    }
  }
  return y;
}

// A number, or infinity as the hubs' files write it.
double limit(const json& value) {
  return value.is_number() ? value.get<double>() : std::numeric_limits<double>::infinity();
}

// Dao & Gu 2024 between in_proj and out_proj.
Rows Model::mamba2(const std::string& name, const Rows& projected) const {
  const Rows A_log = weights_.read(name + ".A_log");
  const int64_t heads = A_log.length;
  const int64_t groups = hugging_face_ ? setting<int64_t>(config_, "n_groups", 8)
                                       : setting<int64_t>(ssm_, "ngroups", 1);
  const int64_t states = hugging_face_ ? setting<int64_t>(config_, "state_size", 128)
                                       : setting<int64_t>(ssm_, "d_state", 128);
  const Rows taps = weights_.read(name + ".conv1d.weight");
  const int64_t inner = taps.length - 2 * groups * states;
  require(inner > 0 && inner % heads == 0 && heads % groups == 0, name + ".conv1d");
  require(projected.width == inner + taps.length + heads, name + ".in_proj");
  const int64_t head_dim = inner / heads;

  const Rows z = columns(projected, 0, inner);
  const Rows xBC = causal_conv_silu(columns(projected, inner, taps.length), taps,
                                    weights_.read_or_zeros(name + ".conv1d.bias", taps.length));
  const Rows dt = columns(projected, inner + taps.length, heads);
  const Rows dt_bias = weights_.read(name + ".dt_bias");
  double least = 0;
  double most = std::numeric_limits<double>::infinity();
  const json limits = hugging_face_ ? setting(config_, "time_step_limit", json())
                                    : setting(ssm_, "dt_limit", json());
  if (!limits.is_null()) {
    least = limit(limits.at(0));
    most = limit(limits.at(1));
  }
  const Rows D_skip = weights_.read(name + ".D");
  require(D_skip.length == heads || D_skip.length == inner, name + ".D");

  Rows y(xBC.length, inner);
  Rows h(inner, states);
  for (int64_t t = 0; t < xBC.length; ++t) {
    for (int64_t head = 0; head < heads; ++head) {
      const double step = std::clamp(softplus(dt.at(t, head) + dt_bias.at(head, 0)), least, most);
      const double decay = std::exp(step * -std::exp(A_log.at(head, 0)));
      const int64_t group = head / (heads / groups);
      for (int64_t p = 0; p < head_dim; ++p) {
        const int64_t e = head * head_dim + p;
        const double x = xBC.at(t, e);
        double sum = 0;
        for (int64_t n = 0; n < states; ++n) {
          const double B = xBC.at(t, inner + group * states + n);
          const double C = xBC.at(t, inner + (groups + group) * states + n);
          h.at(e, n) = decay * h.at(e, n) + step * x * B;
          sum += h.at(e, n) * C;
        }
        y.at(t, e) = sum + D_skip.at(D_skip.length == inner ? e : head, 0) * x;
      }
    }
  }

  Rows gate(z.length, z.width);
  for (size_t i = 0; i < z.values.size(); ++i) gate.values[i] = silu(z.values[i]);
  if (!hugging_face_ && !setting(ssm_, "rmsnorm", true)) return multiplied(y, gate);
  const Rows weight = weights_.read(name + ".norm.weight");
  // Transformers normalises all channels with the model's eps, mamba_ssm each group's with its own.
  if (hugging_face_) return rms_norm(multiplied(y, gate), weight, eps());
  if (setting(ssm_, "norm_before_gate", false)) {
    return multiplied(rms_norm(y, weight, 1e-5, groups), gate);
  }
  return rms_norm(multiplied(y, gate), weight, 1e-5, groups);
}

// A block's mixer over D channels.
Rows Model::both_directions(const std::string& name, const Rows& x) const {
  if (!caduceus_) return mixer(name, "", x);
  const std::string forward = name + (rcps_ ? ".submodule" : "") + ".mamba_fwd";
  const std::string reverse = name + (rcps_ ? ".submodule" : "") + ".mamba_rev";
  if (!setting(config_, "bidirectional", true)) return mixer(forward, "", x);
  const bool tied = setting(config_, "bidirectional_weight_tie", true);
  const Rows one_way = mixer(forward, tied ? reverse : "", x);
  const Rows other_way = flip_L(mixer(reverse, tied ? forward : "", flip_L(x)));
  const auto strategy = setting<std::string>(config_, "bidirectional_strategy", "add");
  if (strategy == "add") return added(one_way, other_way);
  if (strategy == "ew_multiply") return multiplied(one_way, other_way);
  throw std::runtime_error("bidirectional_strategy " + strategy);
}

// --- the whole ---

// Of every token; those that the map leaves out (padding of V) are their own.
std::vector<int32_t> Model::complement(int64_t vocab) const {
  std::vector<int32_t> result(static_cast<size_t>(vocab));
  for (int64_t id = 0; id < vocab; ++id) {
    result[static_cast<size_t>(id)] =
        setting(config_.at("complement_map"), std::to_string(id), static_cast<int32_t>(id));
  }
  return result;
}

Rows Model::embed(const std::vector<int32_t>& tokens) const {
  const std::string name =
      weights_.first_of({backbone_ + "embedding.weight", backbone_ + "embeddings.weight",
                         backbone_ + "embeddings.word_embeddings.weight",
                         backbone_ + "embeddings.word_embeddings.embedding.weight"});
  const Rows table = weights_.read(name);
  const auto look_up = [&](const std::vector<int32_t>& ids) {
    Rows result(static_cast<int64_t>(ids.size()), table.width);
    for (int64_t t = 0; t < result.length; ++t) {
      const int32_t id = ids[static_cast<size_t>(t)];
      require(id >= 0 && id < table.length, "token " + std::to_string(id));
      for (int64_t c = 0; c < table.width; ++c) result.at(t, c) = table.at(id, c);
    }
    return result;
  };
  if (!rcps_) return look_up(tokens);
  const std::vector<int32_t> complement_of = complement(table.length);
  std::vector<int32_t> reverse_complement(tokens.rbegin(), tokens.rend());
  for (int32_t& id : reverse_complement) id = complement_of.at(static_cast<size_t>(id));
  return side_by_side(look_up(tokens), flip_LD(look_up(reverse_complement)));
}

Rows Model::head(const Rows& x) const {
  const Rows weight = weights_.read(weights_.first_of(
      {"lm_head.weight", "lm_head.lm_head.weight", backbone_ + "embedding.weight",
       backbone_ + "embeddings.weight", backbone_ + "embeddings.word_embeddings.weight",
       backbone_ + "embeddings.word_embeddings.embedding.weight"}));
  if (!rcps_) return linear(x, weight);
  const std::vector<int32_t> complement_of = complement(weight.length);
  Rows complement_weight(weight.length, weight.width);
  for (int64_t id = 0; id < weight.length; ++id) {
    for (int64_t c = 0; c < weight.width; ++c) {
      complement_weight.at(id, c) = weight.at(complement_of[static_cast<size_t>(id)], c);
    }
  }
  return added(linear(first_half(x), weight), linear(flip_D(second_half(x)), complement_weight));
}

NaiveOutputs Model::forward(const std::vector<int32_t>& tokens) const {
  NaiveOutputs out;
  Rows hidden = embed(tokens);
  out.embedding = hidden.values;
  Rows residual(hidden.length, hidden.width);

  // Both halves through a function over D channels, the second in its own strand's order.
  const auto on_halves = [](const auto& function, const Rows& x) {
    return side_by_side(function(first_half(x)), flip_LD(function(flip_LD(second_half(x)))));
  };
  const auto n_layer = config_.at(hugging_face_ ? "num_hidden_layers" : "n_layer").get<int64_t>();
  for (int64_t k = 0; k < n_layer; ++k) {
    const std::string block = backbone_ + "layers." + std::to_string(k) + ".";
    const auto norm_D = [&](const Rows& x) { return norm(block + "norm", x); };
    const auto mixer_D = [&](const Rows& x) { return both_directions(block + "mixer", x); };
    if (swaps_) {
      hidden = side_by_side(second_half(hidden), first_half(hidden));
      residual = side_by_side(second_half(residual), first_half(residual));
    }
    residual = added(residual, hidden);
    hidden = rcps_ ? on_halves(mixer_D, on_halves(norm_D, residual)) : mixer_D(norm_D(residual));
    out.residual.push_back(added(residual, hidden).values);
  }
  residual = added(residual, hidden);
  const auto final_norm = [&](const Rows& x) { return norm(backbone_ + "norm_f", x); };
  const Rows last = rcps_ ? on_halves(final_norm, residual) : final_norm(residual);
  out.final_hidden = last.values;
  out.logits = head(last).values;
  return out;
}

}  // namespace

NaiveOutputs naive_forward(const mamba::TensorStore& tensors, const nlohmann::json& config,
                           const std::vector<int32_t>& tokens) {
  return Model(tensors, config).forward(tokens);
}

std::vector<double> naive_log_softmax(const std::vector<double>& logits, int64_t vocab) {
  std::vector<double> result(logits.size());
  for (size_t row = 0; row < logits.size(); row += static_cast<size_t>(vocab)) {
    const auto first = logits.begin() + static_cast<std::ptrdiff_t>(row);
    const double largest = *std::max_element(first, first + vocab);
    double sum = 0;
    for (int64_t i = 0; i < vocab; ++i) sum += std::exp(first[i] - largest);
    for (int64_t i = 0; i < vocab; ++i) {
      result[row + static_cast<size_t>(i)] = first[i] - largest - std::log(sum);
    }
  }
  return result;
}

}  // namespace chromamba::tests
