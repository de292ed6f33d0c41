#include "mamba/torch_pickle.h"

#include <zip.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/base/error.h"
#include "mamba/byte_source.h"

namespace chromamba::mamba {
namespace {

// Limits on what a state dictionary may need. One tensor takes about 170 bytes of pickle, so the
// first is a checkpoint of 400,000 tensors; the others follow from it.
constexpr uint64_t kMaxPickle = uint64_t{64} << 20;
constexpr size_t kMaxObjects = 4'000'000;
constexpr size_t kMaxStack = 1'000'000;
constexpr size_t kMaxRank = 64;  // as in torch

// ---------------------------------------------------------------------------------------------
// The pickle interpreter
// ---------------------------------------------------------------------------------------------

// The names a state dictionary needs. Storage classes carry their element type.
enum class Name { ordered_dict, size, rebuild_tensor, rebuild_parameter, storage };

struct KnownName {
  std::string_view module;
  std::string_view name;
  Name meaning;
  const char* dtype;  // of a storage
};

constexpr KnownName kNames[] = {
    {"collections", "OrderedDict", Name::ordered_dict, ""},
    {"torch", "Size", Name::size, ""},
    {"torch._utils", "_rebuild_tensor_v2", Name::rebuild_tensor, ""},
    {"torch._utils", "_rebuild_parameter", Name::rebuild_parameter, ""},
    {"torch", "FloatStorage", Name::storage, "F32"},
    {"torch", "HalfStorage", Name::storage, "F16"},
    {"torch", "BFloat16Storage", Name::storage, "BF16"},
    {"torch", "DoubleStorage", Name::storage, "F64"},
    {"torch", "LongStorage", Name::storage, "I64"},
    {"torch", "IntStorage", Name::storage, "I32"},
    {"torch", "ShortStorage", Name::storage, "I16"},
    {"torch", "CharStorage", Name::storage, "I8"},
    {"torch", "ByteStorage", Name::storage, "U8"},
    {"torch", "BoolStorage", Name::storage, "BOOL"},
};

enum class Kind : uint8_t {
  none,
  boolean,
  integer,
  real,
  string,
  tuple,
  list,
  dict,
  global,
  storage,
  tensor,
};

const char* kind_name(Kind kind) {
  constexpr const char* kNamesOfKinds[] = {"None",      "a bool",   "an int",
                                           "a float",   "a string", "a tuple",
                                           "a list",    "a dict",   "a class or function",
                                           "a storage", "a tensor"};
  return kNamesOfKinds[static_cast<size_t>(kind)];
}

// Containers and tensors live in arenas of the interpreter and are referred to by index, so that
// a chain of a million nested tuples costs no recursion when it is dropped.
struct Value {
  Kind kind = Kind::none;
  uint32_t length = 0;  // of a string
  int64_t number = 0;   // the integer or boolean; a string's place in the pickle; else an index
};

struct Storage {
  const KnownName* type = nullptr;
  std::string key;  // the archive's entry data/<key>
  int64_t numel = 0;
};

struct View {
  size_t storage = 0;
  int64_t offset = 0;
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;
};

using StateDict = std::map<std::string, View>;

class Interpreter {
 public:
  Interpreter(std::string_view pickle, std::string where)
      : pickle_(pickle), where_(std::move(where)) {}

  StateDict run() {
    while (true) {
      opcode_at_ = at_;
      const auto opcode = static_cast<unsigned char>(take(1)[0]);
      if (opcode == '.') return state_dict(pop());
      step(opcode);
    }
  }

  const std::vector<Storage>& storages() const { return storages_; }

 private:
  [[noreturn]] void fail(const std::string& problem) const {
    throw DataError(where_ + ": at byte " + std::to_string(opcode_at_) +
                    " of data.pkl: " + problem);
  }

  // --- bytes of the program ---

  std::string_view take(uint64_t bytes) {
    if (bytes > pickle_.size() - at_) fail("the pickle is truncated");
    const std::string_view text = pickle_.substr(at_, bytes);
    at_ += bytes;
    return text;
  }

  uint64_t take_number(size_t bytes) {  // little-endian
    const std::string_view raw = take(bytes);
    uint64_t value = 0;
    for (size_t i = bytes; i-- > 0;) value = (value << 8) | static_cast<unsigned char>(raw[i]);
    return value;
  }

  std::string_view take_line() {
    const size_t end = pickle_.find('\n', at_);
    if (end == std::string_view::npos) fail("the pickle is truncated");
    const std::string_view text = pickle_.substr(at_, end - at_);
    at_ = end + 1;
    return text;
  }

  // --- values ---

  std::string_view text(const Value& value) const {
    return pickle_.substr(static_cast<size_t>(value.number), value.length);
  }

  void push(Value value) {
    if (stack_.size() >= kMaxStack) fail("the stack exceeds " + std::to_string(kMaxStack));
    stack_.push_back(value);
  }

  void push_integer(int64_t number) { push({Kind::integer, 0, number}); }

  void push_string(uint64_t bytes) {
    const std::string_view raw = take(bytes);
    push({Kind::string, static_cast<uint32_t>(raw.size()), raw.data() - pickle_.data()});
  }

  void push_long(uint64_t bytes) {
    if (bytes > 8) fail("an integer of " + std::to_string(bytes) + " bytes");
    uint64_t number = take_number(bytes);
    if (bytes > 0 && bytes < 8 && (number >> (8 * bytes - 1)) != 0)
      number |= ~uint64_t{0} << (8 * bytes);
    push_integer(static_cast<int64_t>(number));
  }

  void push_container(Kind kind, std::vector<Value> items) {
    count_object();
    containers_.push_back(std::move(items));
    push({kind, 0, static_cast<int64_t>(containers_.size() - 1)});
  }

  void count_object() {
    if (++objects_ > kMaxObjects) fail("more than " + std::to_string(kMaxObjects) + " objects");
  }

  // Values below a MARK belong to whoever set it.
  size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }

  Value pop() {
    if (stack_.size() <= floor()) fail("a value is missing on the stack");
    const Value value = stack_.back();
    stack_.pop_back();
    return value;
  }

  const Value& top() const {
    if (stack_.size() <= floor()) fail("a value is missing on the stack");
    return stack_.back();
  }

  std::vector<Value> pop_to_mark() {
    if (marks_.empty()) fail("a MARK is missing on the stack");
    const auto begin = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    std::vector<Value> items(begin, stack_.end());
    stack_.erase(begin, stack_.end());
    marks_.pop_back();
    return items;
  }

  std::vector<Value> pop_items(size_t count) {
    std::vector<Value> items(count);
    for (size_t i = count; i-- > 0;) items[i] = pop();
    return items;
  }

  const std::vector<Value>& items(const Value& container) const {
    return containers_[static_cast<size_t>(container.number)];
  }

  void append(Kind kind, const std::vector<Value>& added) {
    const Value target = top();
    if (target.kind != kind) {
      fail(std::string("items are added to ") + kind_name(target.kind) + ", not to " +
           kind_name(kind));
    }
    if (kind == Kind::dict && added.size() % 2 != 0) fail("a key without a value");
    std::vector<Value>& own = containers_[static_cast<size_t>(target.number)];
    objects_ += added.size() / 8;  // bounds the memory of items repeated from the memo
    count_object();
    own.insert(own.end(), added.begin(), added.end());
  }

  void store(uint64_t slot) {
    if (slot >= kMaxObjects) fail("memo slot " + std::to_string(slot) + " is too large");
    if (slot >= memo_.size()) memo_.resize(slot + 1);
    memo_[slot] = top();
  }

  void recall(uint64_t slot) {
    if (slot >= memo_.size() || !memo_[slot].has_value()) {
      fail("memo slot " + std::to_string(slot) + " was never set");
    }
    push(*memo_[slot]);
  }

  // --- instructions ---

  void step(unsigned char opcode) {
    switch (opcode) {
      case 0x80: {  // PROTO
        const uint64_t protocol = take_number(1);
        if (protocol < 2 || protocol > 5) {
          fail("pickle protocol " + std::to_string(protocol) + "; 2 to 5 are read");
        }
        return;
      }
      case 0x95: {  // FRAME: only a hint on how to buffer
        if (take_number(8) > pickle_.size() - at_) fail("the pickle is truncated");
        return;
      }
      case '(': {
        if (marks_.size() >= kMaxStack) fail("too many MARKs");
        marks_.push_back(stack_.size());
        return;
      }
      case '0': {
        pop();
        return;
      }
      case 'N':
        return push({});
      case 0x88:
        return push({Kind::boolean, 0, 1});
      case 0x89:
        return push({Kind::boolean, 0, 0});
      case 'J':
        return push_integer(static_cast<int32_t>(static_cast<uint32_t>(take_number(4))));
      case 'K':
        return push_integer(static_cast<int64_t>(take_number(1)));
      case 'M':
        return push_integer(static_cast<int64_t>(take_number(2)));
      case 0x8a:
        return push_long(take_number(1));
      case 0x8b:
        return push_long(take_number(4));
      case 'G':
        take(8);
        return push({Kind::real, 0, 0});
      case 'U':  // SHORT_BINSTRING
      case 0x8c:
        return push_string(take_number(1));
      case 'T':  // BINSTRING
      case 'X':
        return push_string(take_number(4));
      case 0x8d:
        return push_string(take_number(8));
      case '}':
        return push_container(Kind::dict, {});
      case ']':
        return push_container(Kind::list, {});
      case ')':
        return push_container(Kind::tuple, {});
      case 't':
        return push_container(Kind::tuple, pop_to_mark());
      case 0x85:
      case 0x86:
      case 0x87:
        return push_container(Kind::tuple, pop_items(opcode - 0x84u));
      case 'a':
        return append(Kind::list, pop_items(1));
      case 'e':
        return append(Kind::list, pop_to_mark());
      case 's':
        return append(Kind::dict, pop_items(2));
      case 'u':
        return append(Kind::dict, pop_to_mark());
      case 'q':
        return store(take_number(1));
      case 'r':
        return store(take_number(4));
      case 0x94:
        return store(memo_.size());
      case 'h':
        return recall(take_number(1));
      case 'j':
        return recall(take_number(4));
      case 'c': {
        const std::string_view module = take_line();
        return push_global(module, take_line());
      }
      case 0x93: {  // STACK_GLOBAL
        const Value name = pop();
        const Value module = pop();
        if (name.kind != Kind::string || module.kind != Kind::string) {
          fail("a name must be two strings");
        }
        return push_global(text(module), text(name));
      }
      case 'Q':
        return persistent_id();
      case 'R':
        return reduce();
      case 'b':
        return build();
      default:
        refuse(opcode);
    }
  }

  [[noreturn]] void refuse(unsigned char opcode) const {
    // The ones an attack would use are worth a name.
    const char* name = "";
    switch (opcode) {
      case 'i':
        name = " (INST)";
        break;
      case 'o':
        name = " (OBJ)";
        break;
      case 'P':
        name = " (PERSID)";
        break;
      case 0x81:
        name = " (NEWOBJ)";
        break;
      case 0x92:
        name = " (NEWOBJ_EX)";
        break;
      case 0x82:
      case 0x83:
      case 0x84:
        name = " (EXT)";
        break;
      default:
        break;
    }
    fail("pickle opcode " + std::to_string(opcode) + name +
         " is not one that a dictionary of tensors needs; refused. Save the state_dict alone, or "
         "convert to safetensors");
  }

  void push_global(std::string_view module, std::string_view name) {
    for (const KnownName& known : kNames) {
      if (module == known.module && name == known.name) {
        return push({Kind::global, 0, &known - kNames});
      }
    }
    fail("the pickle asks for " + quote(std::string(module) + "." + std::string(name)) +
         ", which a dictionary of tensors does not need; refused, nothing was run. Save the "
         "state_dict alone, or convert to safetensors");
  }

  static const KnownName& known(const Value& global) {
    return kNames[static_cast<size_t>(global.number)];
  }

  void persistent_id() {
    const Value id = pop();
    if (id.kind != Kind::tuple || items(id).size() != 5) {
      fail("a persistent id that is not ('storage', type, key, location, size)");
    }
    const std::vector<Value>& parts = items(id);
    if (parts[0].kind != Kind::string || text(parts[0]) != "storage" ||
        parts[1].kind != Kind::global || known(parts[1]).meaning != Name::storage ||
        parts[2].kind != Kind::string || parts[3].kind != Kind::string ||
        parts[4].kind != Kind::integer || parts[4].number < 0) {
      fail("a persistent id that is not ('storage', type, key, location, size)");
    }
    count_object();
    storages_.push_back({&known(parts[1]), std::string(text(parts[2])), parts[4].number});
    push({Kind::storage, 0, static_cast<int64_t>(storages_.size() - 1)});
  }

  void reduce() {
    const Value arguments = pop();
    const Value callable = pop();
    if (callable.kind != Kind::global || arguments.kind != Kind::tuple) {
      fail(std::string("the pickle calls ") + kind_name(callable.kind) + " with " +
           kind_name(arguments.kind) + "; refused");
    }
    const std::vector<Value>& parts = items(arguments);
    switch (known(callable).meaning) {
      case Name::ordered_dict:
        if (!parts.empty()) fail("OrderedDict with arguments");
        return push_container(Kind::dict, {});
      case Name::size:
        if (parts.size() != 1 || parts[0].kind != Kind::tuple) fail("torch.Size of no tuple");
        return push(parts[0]);
      case Name::rebuild_parameter:
        if (parts.size() != 3 || parts[0].kind != Kind::tensor) fail("a parameter of no tensor");
        return push(parts[0]);
      case Name::rebuild_tensor:
        return rebuild_tensor(parts);
      case Name::storage:
        break;
    }
    fail("the pickle calls a storage class; refused");
  }

  std::vector<int64_t> integers(const Value& tuple, const char* what) const {
    if (tuple.kind != Kind::tuple || items(tuple).size() > kMaxRank) {
      fail(std::string("a tensor whose ") + what + " is no tuple of at most " +
           std::to_string(kMaxRank) + " numbers");
    }
    std::vector<int64_t> numbers;
    for (const Value& item : items(tuple)) {
      if (item.kind != Kind::integer || item.number < 0) {
        fail(std::string("a tensor whose ") + what + " has " +
             (item.kind == Kind::integer ? std::to_string(item.number) : kind_name(item.kind)));
      }
      numbers.push_back(item.number);
    }
    return numbers;
  }

  // (storage, offset, size, stride, requires_grad, backward_hooks[, metadata])
  void rebuild_tensor(const std::vector<Value>& parts) {
    if (parts.size() < 6 || parts.size() > 7 || parts[0].kind != Kind::storage ||
        parts[1].kind != Kind::integer || parts[1].number < 0) {
      fail("a tensor that is not (storage, offset, size, stride, ...)");
    }
    View view{static_cast<size_t>(parts[0].number), parts[1].number, integers(parts[2], "size"),
              integers(parts[3], "stride")};
    const Storage& storage = storages_[view.storage];
    if (view.shape.size() != view.strides.size()) {
      fail("a tensor of size " + shape_text(view.shape) + " with strides " +
           shape_text(view.strides));
    }
    int64_t numel = 1;
    int64_t last = view.offset;  // the last element the view touches
    bool fits = true;
    for (size_t i = 0; i < view.shape.size(); ++i) {
      int64_t reach = 0;
      fits = fits && !__builtin_mul_overflow(numel, view.shape[i], &numel);
      if (view.shape[i] == 0) continue;
      fits = fits && !__builtin_mul_overflow(view.shape[i] - 1, view.strides[i], &reach) &&
             !__builtin_add_overflow(last, reach, &last);
    }
    // A view may repeat elements (stride 0) and so be larger than the file; weights never are.
    if (!fits || numel > storage.numel || (numel > 0 && last >= storage.numel)) {
      fail("a tensor of size " + shape_text(view.shape) + ", strides " + shape_text(view.strides) +
           ", offset " + std::to_string(view.offset) + " does not fit its storage of " +
           std::to_string(storage.numel) + " elements");
    }
    count_object();
    tensors_.push_back(std::move(view));
    push({Kind::tensor, 0, static_cast<int64_t>(tensors_.size() - 1)});
  }

  // torch.save attaches {'_metadata': ...} to a state dictionary; it holds nothing we need, and
  // attributes on anything else are not ours to set.
  void build() {
    const Value state = pop();
    if (top().kind != Kind::dict || state.kind != Kind::dict) {
      fail(std::string("the pickle sets the state of ") + kind_name(top().kind) + " from " +
           kind_name(state.kind) + "; refused");
    }
  }

  // --- the result ---

  std::optional<Value> entry(const Value& dict, std::string_view key) const {
    std::optional<Value> found;
    const std::vector<Value>& pairs = items(dict);
    for (size_t i = 0; i + 1 < pairs.size(); i += 2) {
      if (pairs[i].kind == Kind::string && text(pairs[i]) == key) found = pairs[i + 1];
    }
    return found;
  }

  StateDict state_dict(Value root) const {
    if (root.kind != Kind::dict) {
      throw DataError(where_ + ": holds " + kind_name(root.kind) +
                      ", expected a dictionary of tensors (a state_dict)");
    }
    for (const std::string_view wrapper : {"state_dict", "model"}) {
      const std::optional<Value> inner = entry(root, wrapper);
      if (inner.has_value() && inner->kind == Kind::dict) {
        root = *inner;
        break;
      }
    }
    StateDict tensors;
    const std::vector<Value>& pairs = items(root);
    for (size_t i = 0; i + 1 < pairs.size(); i += 2) {
      if (pairs[i].kind != Kind::string) {
        throw DataError(where_ + ": a key of the dictionary is " + kind_name(pairs[i].kind) +
                        ", expected the name of a tensor");
      }
      const std::string_view name = text(pairs[i]);
      if (pairs[i + 1].kind != Kind::tensor) {
        throw DataError(where_ + ": entry " + quote(name) + " is " + kind_name(pairs[i + 1].kind) +
                        ", expected a tensor; save the model's state_dict alone");
      }
      tensors.insert_or_assign(std::string(name),
                               tensors_[static_cast<size_t>(pairs[i + 1].number)]);
    }
    return tensors;
  }

  std::string_view pickle_;
  std::string where_;
  size_t at_ = 0;
  size_t opcode_at_ = 0;
  std::vector<Value> stack_;
  std::vector<size_t> marks_;
  std::vector<std::optional<Value>> memo_;
  std::vector<std::vector<Value>> containers_;
  std::vector<Storage> storages_;
  std::vector<View> tensors_;
  size_t objects_ = 0;
};

// ---------------------------------------------------------------------------------------------
// The archive
// ---------------------------------------------------------------------------------------------

// Entries by name. Not safe for several threads at once: libzip keeps one file position.
class Archive {
 public:
  explicit Archive(const ByteSource& source) : source_(source) {
    zip_error_t error;
    zip_error_init(&error);
    zip_source_t* callback = zip_source_function_create(&Archive::serve, this, &error);
    zip_ = callback == nullptr ? nullptr : zip_open_from_source(callback, ZIP_RDONLY, &error);
    if (zip_ == nullptr) {
      const std::string reason = zip_error_strerror(&error);
      if (callback != nullptr) zip_source_free(callback);
      zip_error_fini(&error);
      throw DataError(source.name() + ": not a readable zip archive (" + reason +
                      "), which torch.save writes; is the download complete?");
    }
    zip_error_fini(&error);
    try {
      list_entries();
    } catch (...) {
      zip_discard(zip_);
      throw;
    }
  }
  ~Archive() { zip_discard(zip_); }
  Archive(const Archive&) = delete;
  Archive& operator=(const Archive&) = delete;

  const std::string& prefix() const { return prefix_; }

  // The entry's uncompressed size; nothing when there is no such entry.
  std::optional<uint64_t> size_of(const std::string& name) const {
    const auto found = entries_.find(name);
    if (found == entries_.end()) return std::nullopt;
    return found->second.size;
  }

  std::vector<std::byte> read(const std::string& name) const {
    const Entry& entry = entries_.at(name);
    std::vector<std::byte> bytes(entry.size);
    zip_file_t* file = zip_fopen_index(zip_, entry.index, 0);
    if (file == nullptr) {
      throw entry_error(name, std::string("cannot be read: ") + zip_strerror(zip_));
    }
    uint64_t got = 0;
    bool failed = false;
    while (got < bytes.size()) {
      const zip_int64_t count = zip_fread(file, bytes.data() + got, bytes.size() - got);
      if (count <= 0) {
        failed = count < 0;
        break;
      }
      got += static_cast<uint64_t>(count);
    }
    // Reading past the end makes libzip compare the checksum, and shows data beyond the size.
    std::byte extra{};
    const zip_int64_t beyond = failed ? -1 : zip_fread(file, &extra, 1);
    const std::string reason = zip_error_strerror(zip_file_get_error(file));
    zip_fclose(file);
    if (beyond < 0) throw entry_error(name, "damaged: " + reason);
    if (beyond > 0 || got != bytes.size()) {
      throw entry_error(name, "has " + std::string(beyond > 0 ? "more" : "fewer") +
                                  " bytes than the " + std::to_string(bytes.size()) +
                                  " the archive declares");
    }
    return bytes;
  }

 private:
  struct Entry {
    zip_uint64_t index = 0;
    uint64_t size = 0;
  };

  DataError entry_error(const std::string& entry, const std::string& problem) const {
    return DataError(source_.name() + ": archive entry " + quote(entry) + " " + problem);
  }

  void list_entries() {
    // torch.save stores its entries; somebody may have packed the file again. Weights do not
    // shrink much, so a total far beyond the file is an archive made to fill our memory.
    constexpr uint64_t kMaxRatio = 64;
    const uint64_t limit = source_.size() * kMaxRatio;
    uint64_t total = 0;
    const zip_int64_t count = zip_get_num_entries(zip_, 0);
    for (zip_int64_t i = 0; i < count; ++i) {
      zip_stat_t status;
      zip_stat_init(&status);
      const auto index = static_cast<zip_uint64_t>(i);
      if (zip_stat_index(zip_, index, 0, &status) != 0 || (status.valid & ZIP_STAT_NAME) == 0 ||
          (status.valid & ZIP_STAT_SIZE) == 0) {
        throw DataError(source_.name() + ": archive entry " + std::to_string(i) +
                        " cannot be read: " + zip_strerror(zip_));
      }
      const std::string name = status.name;
      if (status.comp_method != ZIP_CM_STORE && status.comp_method != ZIP_CM_DEFLATE) {
        throw entry_error(name, "uses compression method " + std::to_string(status.comp_method) +
                                    "; stored and deflated entries are read");
      }
      if (status.encryption_method != ZIP_EM_NONE) throw entry_error(name, "is encrypted");
      if (status.comp_size > source_.size() || status.size > limit - total ||
          (status.comp_method == ZIP_CM_STORE && status.size != status.comp_size)) {
        throw entry_error(name, "declares " + std::to_string(status.size) +
                                    " bytes in an archive of " + std::to_string(source_.size()) +
                                    " bytes");
      }
      total += status.size;
      if (!entries_.try_emplace(name, Entry{index, status.size}).second) {
        throw entry_error(name, "occurs twice");
      }
      constexpr std::string_view kPickle = "/data.pkl";
      if (name.size() > kPickle.size() && name.ends_with(kPickle) &&
          name.find('/') == name.size() - kPickle.size()) {
        if (!prefix_.empty()) throw entry_error(name, "is a second pickle in the archive");
        prefix_ = name.substr(0, name.size() - kPickle.size()) + "/";
      }
    }
    if (prefix_.empty()) {
      throw DataError(source_.name() +
                      ": a zip archive without */data.pkl; not written by torch.save");
    }
  }

  // libzip's view of a ByteSource.
  static zip_int64_t serve(void* user, void* data, zip_uint64_t length, zip_source_cmd_t command) {
    auto* self = static_cast<Archive*>(user);
    switch (command) {
      case ZIP_SOURCE_OPEN:
        self->position_ = 0;
        return 0;
      case ZIP_SOURCE_READ: {
        const uint64_t left = self->source_.size() - self->position_;
        const auto bytes = static_cast<size_t>(std::min<uint64_t>(length, left));
        try {
          self->source_.read(self->position_, data, bytes);
        } catch (const std::exception&) {  // must not cross C frames
          zip_error_set(&self->error_, ZIP_ER_READ, 0);
          return -1;
        }
        self->position_ += bytes;
        return static_cast<zip_int64_t>(bytes);
      }
      case ZIP_SOURCE_CLOSE:
        return 0;
      case ZIP_SOURCE_STAT: {
        auto* status = static_cast<zip_stat_t*>(data);
        zip_stat_init(status);
        status->size = self->source_.size();
        status->valid = ZIP_STAT_SIZE;
        return sizeof(zip_stat_t);
      }
      case ZIP_SOURCE_ERROR:
        return zip_error_to_data(&self->error_, data, length);
      case ZIP_SOURCE_FREE:
        return 0;
      case ZIP_SOURCE_SEEK: {
        const zip_int64_t target = zip_source_seek_compute_offset(
            self->position_, self->source_.size(), data, length, &self->error_);
        if (target < 0) return -1;
        self->position_ = static_cast<uint64_t>(target);
        return 0;
      }
      case ZIP_SOURCE_TELL:
        return static_cast<zip_int64_t>(self->position_);
      case ZIP_SOURCE_SUPPORTS:
        return zip_source_make_command_bitmap(
            ZIP_SOURCE_OPEN, ZIP_SOURCE_READ, ZIP_SOURCE_CLOSE, ZIP_SOURCE_STAT, ZIP_SOURCE_ERROR,
            ZIP_SOURCE_FREE, ZIP_SOURCE_SEEK, ZIP_SOURCE_TELL, ZIP_SOURCE_SUPPORTS, -1);
      default:
        zip_error_set(&self->error_, ZIP_ER_OPNOTSUPP, 0);
        return -1;
    }
  }

  const ByteSource& source_;
  zip_t* zip_ = nullptr;
  zip_error_t error_{};
  uint64_t position_ = 0;
  std::map<std::string, Entry> entries_;
  std::string prefix_;  // "name/", the folder inside the archive
};

// ---------------------------------------------------------------------------------------------
// The store
// ---------------------------------------------------------------------------------------------

class TorchStore final : public TensorStore {
 public:
  explicit TorchStore(std::unique_ptr<ByteSource> source) : source_(std::move(source)) {
    check_kind();
    archive_.emplace(*source_);
    const std::string& file = source_->name();
    const std::string order_entry = archive_->prefix() + "byteorder";
    if (archive_->size_of(order_entry).value_or(UINT64_MAX) < 64) {
      const std::string order = as_text(archive_->read(order_entry));
      if (order != "little") {
        throw DataError(file + ": byte order is " + quote(order) +
                        ", expected 'little'; save it again on a little-endian machine");
      }
    }
    const std::string pickle_entry = archive_->prefix() + "data.pkl";
    if (*archive_->size_of(pickle_entry) > kMaxPickle) {
      throw DataError(file + ": data.pkl has " + std::to_string(*archive_->size_of(pickle_entry)) +
                      " bytes (limit " + std::to_string(kMaxPickle) +
                      "); save the state_dict alone");
    }
    const std::string pickle = as_text(archive_->read(pickle_entry));
    Interpreter interpreter(pickle, file);
    const StateDict state = interpreter.run();
    for (const auto& [name, view] : state) add(name, view, interpreter.storages()[view.storage]);
  }

  const std::vector<TensorInfo>& tensors() const override { return tensors_; }

 private:
  struct Place {
    std::string entry;
    int64_t offset = 0;  // in elements
    std::vector<int64_t> strides;
    bool contiguous = false;
  };

  static std::string as_text(const std::vector<std::byte>& bytes) {
    std::string text(bytes.size(), '\0');
    if (!bytes.empty()) std::memcpy(text.data(), bytes.data(), bytes.size());
    return text;
  }

  void check_kind() const {
    unsigned char magic[2] = {};
    if (source_->size() >= 2) source_->read(0, magic, 2);
    if (magic[0] == 0x80 && magic[1] >= 1 && magic[1] <= 5) {
      throw DataError(
          source_->name() +
          ": a torch file from before version 1.6 (a bare pickle, no zip archive); load "
          "it in torch and save it again, or convert it to safetensors");
    }
    if (magic[0] != 'P' || magic[1] != 'K') {
      throw DataError(source_->name() + ": not a file of torch.save: no zip archive");
    }
  }

  void add(const std::string& name, const View& view, const Storage& storage) {
    const std::string& file = source_->name();
    TensorInfo info;
    info.name = name;
    info.file = file;
    info.dtype_name = storage.type->dtype;
    info.dtype = dtype_from_name(info.dtype_name);
    info.shape = view.shape;
    if (!set_sizes(info)) {
      throw DataError(file + ": tensor " + quote(name) + ": shape " + shape_text(info.shape) +
                      " is too large to exist");
    }
    Place place{archive_->prefix() + "data/" + storage.key, view.offset, view.strides, true};
    const std::optional<uint64_t> size = archive_->size_of(place.entry);
    if (!size.has_value()) {
      throw DataError(file + ": tensor " + quote(name) + ": its storage " + quote(place.entry) +
                      " is not in the archive");
    }
    const auto element = static_cast<uint64_t>(dtype_bytes(info.dtype_name));
    if (*size % element != 0 || *size / element != static_cast<uint64_t>(storage.numel)) {
      throw DataError(file + ": tensor " + quote(name) + ": its storage " + quote(place.entry) +
                      " has " + std::to_string(*size) + " bytes, expected " +
                      std::to_string(storage.numel) + " " + info.dtype_name + " elements");
    }
    int64_t expected = 1;
    for (size_t i = view.shape.size(); i-- > 0 && info.numel > 0;) {
      if (view.shape[i] == 1) {
        place.strides[i] = 0;  // may be any number; none that could overflow a sum
      } else if (view.strides[i] != expected) {
        place.contiguous = false;
      }
      expected *= view.shape[i];
    }
    tensors_.push_back(std::move(info));
    places_.push_back(std::move(place));
  }

  void read_elements(size_t index, int64_t first, int64_t count, void* out) const override {
    const TensorInfo& info = tensors_[index];
    const Place& place = places_[index];
    const auto element = static_cast<size_t>(dtype_bytes(info.dtype_name));
    const std::lock_guard lock(mutex_);
    if (cached_entry_ != place.entry) {
      cached_entry_.clear();
      cached_ = {};  // before the next one is read: two large storages need not fit
      cached_ = archive_->read(place.entry);
      cached_entry_ = place.entry;
    }
    if (place.contiguous) {
      std::memcpy(out, cached_.data() + static_cast<size_t>(place.offset + first) * element,
                  static_cast<size_t>(count) * element);
      return;
    }
    // An odometer over the axes, set to `first`, the last axis fastest.
    const size_t rank = info.shape.size();
    std::vector<int64_t> digits(rank);
    int64_t from = place.offset;
    int64_t rest = first;
    for (size_t i = rank; i-- > 0;) {
      digits[i] = rest % info.shape[i];
      rest /= info.shape[i];
      from += digits[i] * place.strides[i];
    }
    auto* to = static_cast<std::byte*>(out);
    for (int64_t done = 0; done < count; ++done, to += element) {
      std::memcpy(to, cached_.data() + static_cast<size_t>(from) * element, element);
      for (size_t i = rank; i-- > 0;) {
        from += place.strides[i];
        if (++digits[i] < info.shape[i]) break;
        from -= place.strides[i] * info.shape[i];
        digits[i] = 0;
      }
    }
  }

  std::unique_ptr<ByteSource> source_;
  std::optional<Archive> archive_;
  std::vector<TensorInfo> tensors_;
  std::vector<Place> places_;  // beside tensors_

  // The storage read last: tied weights and views of one storage come one after the other.
  mutable std::mutex mutex_;
  mutable std::string cached_entry_;
  mutable std::vector<std::byte> cached_;
};

}  // namespace

std::unique_ptr<TensorStore> open_torch_checkpoint(const std::string& path) {
  return std::make_unique<TorchStore>(open_file_source(path));
}

std::unique_ptr<TensorStore> open_torch_checkpoint_memory(std::span<const std::byte> bytes,
                                                          std::string name) {
  return std::make_unique<TorchStore>(memory_source(bytes, std::move(name)));
}

}  // namespace chromamba::mamba
