#include "mamba/checkpoint.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <vector>

#include "kernels/base/error.h"
#include "mamba/byte_source.h"
#include "mamba/json_text.h"
#include "mamba/safetensors.h"
#include "mamba/sha256.h"
#include "mamba/torch_pickle.h"

namespace chromamba::mamba {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr JsonRules kLenient{.allow_infinity = true};
constexpr JsonRules kVocabularyRules{};

constexpr const char* kWeightsNames[] = {"model.safetensors", "model.safetensors.index.json",
                                         "pytorch_model.bin"};

bool is_present(const fs::path& path) {
  std::error_code error;
  return fs::exists(path, error);
}

enum class WeightsKind { safetensors, shard_index, torch };

// Decides by content: a safetensors file has its JSON header at byte 8, a zip archive begins with
// PK, an index is JSON from the first byte.
WeightsKind weights_kind(const std::string& path) {
  const std::unique_ptr<ByteSource> source = open_file_source(path);
  std::array<char, 16> head{};
  const auto size = static_cast<size_t>(std::min<uint64_t>(head.size(), source->size()));
  source->read(0, head.data(), size);
  const std::string_view bytes(head.data(), size);
  constexpr std::string_view kBlanks = " \t\r\n";
  if (size == 0) throw DataError(path + ": the file is empty");
  if (size > 8 && bytes[8] == '{' && bytes.substr(4, 4) == std::string_view("\0\0\0\0", 4)) {
    return WeightsKind::safetensors;
  }
  if (bytes.starts_with("PK")) return WeightsKind::torch;
  if (bytes[0] == '\x80' && size > 1 && bytes[1] >= 1 && bytes[1] <= 5) return WeightsKind::torch;
  const size_t first = bytes.find_first_not_of(kBlanks);
  if (first != std::string_view::npos && bytes[first] == '{' &&
      bytes.find('\0') == std::string_view::npos) {
    return WeightsKind::shard_index;
  }
  if (bytes.starts_with("version https://")) {
    throw DataError(path + ": a Git LFS pointer, not the weights themselves; run 'git lfs pull'");
  }
  if (path.ends_with(".safetensors")) return WeightsKind::safetensors;  // names what is wrong
  throw DataError(path +
                  ": neither a safetensors file, an index of shards, nor a file of "
                  "torch.save; it begins with " +
                  quote(bytes.substr(0, 8)));
}

void open_weights(const std::string& path, WeightsKind kind, Checkpoint& checkpoint) {
  checkpoint.weights_path = path;
  std::vector<std::string> files{path};
  switch (kind) {
    case WeightsKind::safetensors:
      checkpoint.tensors = open_safetensors(path);
      break;
    case WeightsKind::torch:
      checkpoint.tensors = open_torch_checkpoint(path);
      break;
    case WeightsKind::shard_index: {
      const std::string folder = fs::path(path).parent_path().string();
      checkpoint.tensors = open_safetensors_shards(folder, path);
      files = safetensors_shard_paths(folder, path);
      break;
    }
  }
  Sha256 digest;
  for (const std::string& file : files) digest.add(*open_file_source(file));
  checkpoint.sha256 = digest.hex();
}

// The token table of tokenizer.json: a map, or for unigram models a list of [token, score].
json vocabulary_of_tokenizer(const json& tokenizer, const std::string& path) {
  const auto model = tokenizer.is_object() ? tokenizer.find("model") : tokenizer.end();
  const bool has_model = tokenizer.is_object() && model != tokenizer.end() && model->is_object();
  const auto vocab = has_model ? model->find("vocab") : json::const_iterator();
  if (!has_model || vocab == model->end() || !vocab->is_structured()) {
    throw DataError(path + ": no 'model.vocab' table of tokens; is this a tokenizer.json?");
  }
  json table = json::object();
  if (vocab->is_object()) {
    table = *vocab;
  } else {
    int64_t id = 0;
    for (const json& entry : *vocab) {
      if (!entry.is_array() || entry.empty() || !entry[0].is_string()) {
        throw DataError(path + ": 'model.vocab' entry " + std::to_string(id) +
                        " is not a [token, score] pair");
      }
      table[entry[0].get<std::string>()] = id++;
    }
  }
  const auto added = tokenizer.find("added_tokens");
  if (added != tokenizer.end() && added->is_array()) {
    for (const json& entry : *added) {
      if (!entry.is_object() || !entry.contains("content") || !entry.contains("id") ||
          !entry["content"].is_string()) {
        throw DataError(path + ": an entry of 'added_tokens' lacks 'content' or 'id'");
      }
      table[entry["content"].get<std::string>()] = entry["id"];
    }
  }
  return table;
}

json vocabulary_of_lines(const std::string& text) {
  json table = json::object();
  int64_t id = 0;
  for (size_t begin = 0; begin < text.size(); ++id) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string token = text.substr(begin, end - begin);
    if (token.ends_with('\r')) token.pop_back();
    table[token] = id;
    begin = end + 1;
  }
  return table;
}

void read_vocabulary(const fs::path& folder, Checkpoint& checkpoint) {
  constexpr uint64_t kMaxLines = uint64_t{16} << 20;
  for (const char* name : {"tokenizer.json", "vocab.json", "vocab.txt"}) {
    const fs::path path = folder / name;
    if (!is_present(path)) continue;
    checkpoint.vocabulary_path = path.string();
    if (path.filename() == "tokenizer.json") {
      checkpoint.vocabulary =
          vocabulary_of_tokenizer(read_json_file(path.string(), kVocabularyRules), path.string());
    } else if (path.filename() == "vocab.json") {
      checkpoint.vocabulary = read_json_file(path.string(), kVocabularyRules);
    } else {
      checkpoint.vocabulary =
          vocabulary_of_lines(read_text(*open_file_source(path.string()), kMaxLines));
    }
    return;
  }
}

// Transformers writes 1e30 where nobody set a length.
int64_t read_model_max_length(const fs::path& folder) {
  constexpr int64_t kMaxContext = int64_t{1} << 40;
  const fs::path path = folder / "tokenizer_config.json";
  if (!is_present(path)) return 0;
  const json settings = read_json_file(path.string(), kLenient);
  if (!settings.is_object() || !settings.contains("model_max_length")) return 0;
  const json& length = settings["model_max_length"];
  if (!length.is_number_integer()) return 0;
  const auto bases = length.get<int64_t>();
  return bases > 0 && bases <= kMaxContext ? bases : 0;
}

fs::path find_weights(const fs::path& folder) {
  for (const char* name : kWeightsNames) {
    if (is_present(folder / name)) return folder / name;
  }
  std::string looked_for;
  for (const char* name : kWeightsNames) {
    looked_for += (looked_for.empty() ? "" : ", ") + std::string(name);
  }
  // Name what else could be meant, so that the next command is the right one.
  std::error_code error;
  std::vector<std::string> others;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string extension = entry->path().extension().string();
    if (extension == ".safetensors" || extension == ".bin" || extension == ".pt") {
      others.push_back(entry->path().filename().string());
    }
  }
  if (error) throw DataError(folder.string() + ": cannot list the folder: " + error.message());
  std::sort(others.begin(), others.end());
  std::string hint;
  if (!others.empty()) {
    hint = "; to use " + quote(others.front()) + ", give its path instead of the folder's";
  }
  throw DataError(folder.string() + ": no weights in this folder; looked for " + looked_for + hint);
}

}  // namespace

Checkpoint open_checkpoint(const std::string& folder_or_file) {
  const fs::path path = folder_or_file;
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) {
    throw DataError(folder_or_file +
                    ": no such checkpoint; give a folder with config.json and "
                    "model.safetensors, or a weights file");
  }
  const bool is_folder = fs::is_directory(status);
  const fs::path folder = is_folder ? path : path.parent_path();
  const fs::path weights = is_folder ? find_weights(folder) : path;
  const fs::path config = folder / "config.json";
  if (!is_folder && path.filename() == "config.json") {
    throw DataError(folder_or_file + ": this is the configuration; give the folder or the weights");
  }
  const WeightsKind kind =
      weights_kind(weights.string());  // first: the path may be no weights at all
  if (!is_present(config)) {
    throw DataError(config.string() +
                    ": missing; the model's shape is read from config.json beside the weights");
  }

  Checkpoint checkpoint;
  checkpoint.path = folder_or_file;
  checkpoint.config_path = config.string();
  checkpoint.config = read_json_file(checkpoint.config_path, kLenient);
  open_weights(weights.string(), kind, checkpoint);
  read_vocabulary(folder, checkpoint);
  checkpoint.model_max_length = read_model_max_length(folder);
  return checkpoint;
}

Checkpoint open_checkpoint_memory(const std::string& config_text,
                                  std::span<const std::byte> weights, const std::string& name) {
  Checkpoint checkpoint;
  checkpoint.path = name;
  checkpoint.weights_path = name;
  checkpoint.config_path = name + ": config.json";
  checkpoint.config = parse_json(config_text, checkpoint.config_path, kLenient);
  checkpoint.tensors = open_safetensors_memory(weights, name);
  Sha256 digest;
  digest.add(weights.data(), weights.size());
  checkpoint.sha256 = digest.hex();
  return checkpoint;
}

}  // namespace chromamba::mamba
