#include "mamba/safetensors.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <utility>

#include "kernels/base/error.h"
#include "mamba/byte_source.h"
#include "mamba/json_text.h"

namespace chromamba::mamba {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxHeader = 100'000'000;  // the limit of the reference implementation

constexpr JsonRules kStrict{.refuse_duplicate_keys = true};

struct Extent {
  uint64_t begin = 0;  // in the file
  uint64_t end = 0;
};

uint64_t read_length(const ByteSource& source) {
  unsigned char bytes[8];
  source.read(0, bytes, sizeof bytes);
  uint64_t value = 0;
  for (int i = 7; i >= 0; --i) value = (value << 8) | bytes[i];
  return value;
}

class SafetensorsFile final : public TensorStore {
 public:
  explicit SafetensorsFile(std::unique_ptr<ByteSource> source) : source_(std::move(source)) {
    const std::string& file = source_->name();
    if (source_->size() < 8) {
      throw DataError(file + ": not a safetensors file: " + std::to_string(source_->size()) +
                      " bytes, but the header length alone takes 8");
    }
    const uint64_t header_size = read_length(*source_);
    if (header_size > kMaxHeader) {
      throw DataError(file + ": not a safetensors file: header of " + std::to_string(header_size) +
                      " bytes (limit " + std::to_string(kMaxHeader) + ")");
    }
    if (header_size > source_->size() - 8) {
      throw DataError(file + ": truncated: header of " + std::to_string(header_size) +
                      " bytes in a file of " + std::to_string(source_->size()) +
                      " bytes; fetch it again");
    }
    std::string text(header_size, '\0');
    source_->read(8, text.data(), text.size());
    if (text.empty() || text[0] != '{') {
      throw DataError(file + ": not a safetensors file: the header does not start with '{'");
    }
    const json header = parse_json(text, file + ": safetensors header", kStrict);
    data_begin_ = 8 + header_size;
    for (const auto& [key, value] : header.items()) {
      if (key == "__metadata__") {
        read_metadata(value);
      } else {
        read_entry(key, value);
      }
    }
    sort_by_name();
    check_coverage();
  }

  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  const std::map<std::string, std::string>& metadata() const override { return metadata_; }

 private:
  void read_elements(size_t index, int64_t first, int64_t count, void* out) const override {
    const TensorInfo& info = tensors_[index];
    const auto element = info.bytes / static_cast<uint64_t>(info.numel);
    source_->read(extents_[index].begin + static_cast<uint64_t>(first) * element, out,
                  static_cast<size_t>(static_cast<uint64_t>(count) * element));
  }

  DataError entry_error(const std::string& tensor, const std::string& problem) const {
    return DataError(source_->name() + ": tensor " + quote(tensor) + ": " + problem);
  }

  void read_metadata(const json& value) {
    if (!value.is_object()) {
      throw DataError(source_->name() + ": __metadata__ must be an object of strings, found " +
                      value.type_name());
    }
    for (const auto& [key, text] : value.items()) {
      if (!text.is_string()) {
        throw DataError(source_->name() + ": __metadata__ key " + quote(key) +
                        " must be a string, found " + text.type_name());
      }
      metadata_[key] = text.get<std::string>();
    }
  }

  void read_entry(const std::string& name, const json& value) {
    if (!value.is_object()) {
      throw entry_error(name,
                        std::string("header entry must be an object, found ") + value.type_name());
    }
    const auto dtype = value.find("dtype");
    const auto shape = value.find("shape");
    const auto offsets = value.find("data_offsets");
    if (dtype == value.end() || !dtype->is_string()) {
      throw entry_error(name, "no 'dtype' string in the header");
    }
    if (shape == value.end() || !shape->is_array()) {
      throw entry_error(name, "no 'shape' list in the header");
    }
    if (offsets == value.end() || !offsets->is_array() || offsets->size() != 2 ||
        !(*offsets)[0].is_number_unsigned() || !(*offsets)[1].is_number_unsigned()) {
      throw entry_error(name, "no 'data_offsets' pair of byte positions in the header");
    }
    TensorInfo info;
    info.name = name;
    info.file = source_->name();
    info.dtype_name = dtype->get<std::string>();
    info.dtype = dtype_from_name(info.dtype_name);
    if (dtype_bytes(info.dtype_name) == 0) {
      throw entry_error(
          name, "unknown dtype " + quote(info.dtype_name) + "; weights must be F32, F16 or BF16");
    }
    for (const json& extent : *shape) {
      if (!extent.is_number_unsigned() ||
          extent.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
        throw entry_error(name, "shape must list whole numbers, found " + quote(extent.dump()));
      }
      info.shape.push_back(extent.get<int64_t>());
    }
    if (!set_sizes(info)) {
      throw entry_error(name, "shape " + shape_text(info.shape) + " is too large to exist");
    }
    const auto begin = (*offsets)[0].get<uint64_t>();
    const auto end = (*offsets)[1].get<uint64_t>();
    const uint64_t data_size = source_->size() - data_begin_;
    if (begin > end || end > data_size) {
      throw entry_error(name, "data at bytes " + std::to_string(begin) + " to " +
                                  std::to_string(end) + ", but the file has " +
                                  std::to_string(data_size) +
                                  " bytes of data; is the download complete?");
    }
    if (end - begin != info.bytes) {
      throw entry_error(name, info.dtype_name + " " + shape_text(info.shape) + " takes " +
                                  std::to_string(info.bytes) + " bytes, but data_offsets span " +
                                  std::to_string(end - begin));
    }
    tensors_.push_back(std::move(info));
    extents_.push_back({data_begin_ + begin, data_begin_ + end});
  }

  void sort_by_name() {
    // nlohmann keeps object keys sorted by bytes, which is our order; assert it cheaply.
    const bool sorted =
        std::is_sorted(tensors_.begin(), tensors_.end(),
                       [](const TensorInfo& a, const TensorInfo& b) { return a.name < b.name; });
    if (!sorted) throw InternalError(source_->name() + ": header keys are not sorted");
  }

  void check_coverage() const {
    std::vector<size_t> order(tensors_.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::sort(order.begin(), order.end(), [this](size_t a, size_t b) {
      return std::pair(extents_[a].begin, extents_[a].end) <
             std::pair(extents_[b].begin, extents_[b].end);
    });
    uint64_t covered = data_begin_;
    for (const size_t index : order) {
      const Extent& extent = extents_[index];
      if (extent.begin != covered) {
        throw entry_error(tensors_[index].name,
                          (extent.begin < covered ? "overlaps another tensor: it begins at byte "
                                                  : "leaves a gap before it: it begins at byte ") +
                              std::to_string(extent.begin - data_begin_) +
                              " of the data, expected " + std::to_string(covered - data_begin_));
      }
      covered = extent.end;
    }
    if (covered != source_->size()) {
      throw DataError(source_->name() + ": " + std::to_string(source_->size() - covered) +
                      " bytes after the last tensor belong to no tensor");
    }
  }

  std::unique_ptr<ByteSource> source_;
  uint64_t data_begin_ = 0;
  std::vector<TensorInfo> tensors_;
  std::vector<Extent> extents_;  // beside tensors_
  std::map<std::string, std::string> metadata_;
};

using WeightMap = std::map<std::string, std::string>;  // tensor -> file name

WeightMap read_weight_map(const std::string& index_path) {
  const json index = read_json_file(index_path, kStrict);
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  if (!index.is_object() || map == index.end() || !map->is_object() || map->empty()) {
    throw DataError(index_path + ": no 'weight_map' object, which names the shard of each tensor");
  }
  WeightMap weights;
  for (const auto& [tensor, shard] : map->items()) {
    if (!shard.is_string()) {
      throw DataError(index_path + ": tensor " + quote(tensor) +
                      ": the shard must be a file name, found " + shard.type_name());
    }
    const auto name = shard.get<std::string>();
    if (name.empty() || name == "." || name == ".." || name.find('/') != std::string::npos ||
        name.find('\\') != std::string::npos || name.find('\0') != std::string::npos) {
      throw DataError(index_path + ": tensor " + quote(tensor) + ": shard " + quote(name) +
                      " escapes the checkpoint's folder; shards must be plain file names");
    }
    weights[tensor] = name;
  }
  return weights;
}

std::string join(const std::string& folder, const std::string& name) {
  if (folder.empty()) return name;
  return folder.back() == '/' ? folder + name : folder + "/" + name;
}

class ShardedStore final : public TensorStore {
 public:
  ShardedStore(const std::string& folder, const std::string& index_path) {
    const WeightMap weights = read_weight_map(index_path);
    std::map<std::string, size_t> opened;  // file name -> shard
    for (const auto& [tensor, shard] : weights) {
      const auto [entry, fresh] = opened.try_emplace(shard, shards_.size());
      if (!fresh) continue;
      shards_.push_back(open_safetensors(join(folder, shard)));
      for (const auto& [key, text] : shards_.back()->metadata()) metadata_[key] = text;
    }
    // Both directions: what a shard holds must be listed there, and what is listed must be there.
    for (const auto& [shard, index] : opened) {
      for (const TensorInfo& info : shards_[index]->tensors()) {
        const auto listed = weights.find(info.name);
        if (listed == weights.end()) {
          throw DataError(info.file + ": tensor " + quote(info.name) + " is not listed in " +
                          index_path);
        }
        if (listed->second != shard) {
          throw DataError(info.file + ": tensor " + quote(info.name) + " is listed in " +
                          index_path + " as part of " + quote(listed->second) +
                          "; a tensor must be in one shard");
        }
      }
    }
    for (const auto& [tensor, shard] : weights) {  // in name order
      const size_t index = opened.at(shard);
      const TensorInfo* info = shards_[index]->find(tensor);
      if (info == nullptr) {
        throw DataError(join(folder, shard) + ": tensor " + quote(tensor) +
                        " is not in this shard, where " + index_path + " places it");
      }
      tensors_.push_back(*info);
      places_.push_back(index);
    }
  }

  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  const std::map<std::string, std::string>& metadata() const override { return metadata_; }

 private:
  void read_elements(size_t index, int64_t first, int64_t count, void* out) const override {
    const TensorInfo& info = tensors_[index];
    shards_[places_[index]]->read_part(info, first, count, out);
  }

  std::vector<std::unique_ptr<TensorStore>> shards_;
  std::vector<TensorInfo> tensors_;
  std::vector<size_t> places_;  // shard of each tensor
  std::map<std::string, std::string> metadata_;
};

}  // namespace

std::unique_ptr<TensorStore> open_safetensors(const std::string& path) {
  return std::make_unique<SafetensorsFile>(open_file_source(path));
}

std::unique_ptr<TensorStore> open_safetensors_memory(std::span<const std::byte> bytes,
                                                     std::string name) {
  return std::make_unique<SafetensorsFile>(memory_source(bytes, std::move(name)));
}

std::unique_ptr<TensorStore> open_safetensors_shards(const std::string& folder,
                                                     const std::string& index_path) {
  return std::make_unique<ShardedStore>(folder, index_path);
}

std::vector<std::string> safetensors_shard_paths(const std::string& folder,
                                                 const std::string& index_path) {
  std::set<std::string> names;
  for (const auto& [tensor, shard] : read_weight_map(index_path)) names.insert(shard);
  std::vector<std::string> paths;
  paths.reserve(names.size());
  for (const std::string& name : names) paths.push_back(join(folder, name));
  return paths;
}

}  // namespace chromamba::mamba
