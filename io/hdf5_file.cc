#include "io/hdf5_file.h"

#include <fcntl.h>
#include <hdf5.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

#include "io/quote.h"
#include "kernels/base/error.h"
#include "kernels/base/half.h"

namespace chromamba::io {
namespace {

constexpr int64_t kChunkBytes = int64_t{1} << 19;
constexpr int64_t kChunkRows = 65536;
// The chunks at both edges of a block and a few between; a chunk that is full leaves first.
constexpr int64_t kCacheBytes = int64_t{1} << 22;
constexpr int64_t kCacheChunks = 4;
constexpr size_t kCacheSlots = 521;  // a prime well above the chunks held, as HDF5 advises
// Embedding, likelihood and their strands are written side by side; beyond these, handles are
// closed, since a genome may have a million contigs.
constexpr size_t kOpenDatasets = 8;
// Values converted between f16 and f32 at once: 2 MiB of f16, 4 chunks.
constexpr int64_t kConvertedValues = int64_t{1} << 20;

// Owns an HDF5 identifier.
class Handle {
 public:
  using Closer = herr_t (*)(hid_t);
  Handle() = default;
  Handle(hid_t id, Closer closer) : id_(id), closer_(closer) {}
  Handle(Handle&& other) noexcept
      : id_(std::exchange(other.id_, H5I_INVALID_HID)), closer_(other.closer_) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(closer_, other.closer_);
    return *this;
  }
  ~Handle() {
    if (id_ >= 0) (void)closer_(id_);
  }
  hid_t get() const { return id_; }
  bool valid() const { return id_ >= 0; }
  // False when closing failed. The identifier is let go either way: trying again can crash HDF5.
  bool close() {
    const hid_t id = std::exchange(id_, H5I_INVALID_HID);
    return id < 0 || closer_(id) >= 0;
  }
  // Lets the identifier go without closing it.
  void leak() { id_ = H5I_INVALID_HID; }

 private:
  hid_t id_ = H5I_INVALID_HID;
  Closer closer_ = nullptr;
};

// A thread-safe build of HDF5 keeps one error stack, and one switch for printing it, a thread: this is
// called on every entry.
void silence_hdf5() {
  // What abandon() leaks must not be closed at exit; the library asks to be told before anything else.
  static const herr_t no_cleanup_at_exit = H5dont_atexit();
  (void)no_cleanup_at_exit;
  thread_local bool silent = false;
  if (silent) return;
  (void)H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  silent = true;
}

// The innermost cause that HDF5 recorded. The file driver puts errno's text into its description.
std::string hdf5_cause() {
  std::string cause;
  const auto visit = [](unsigned, const H5E_error2_t* error, void* out) -> herr_t {
    auto& text = *static_cast<std::string*>(out);
    const std::string description = error->desc != nullptr ? error->desc : "";
    constexpr const char kMark[] = "error message = '";
    const size_t start = description.find(kMark);
    if (start != std::string::npos) {
      const size_t from = start + sizeof kMark - 1;
      text = description.substr(from, description.find('\'', from) - from);
      return 1;  // stop: this is the system's own word
    }
    if (text.empty()) text = description;
    return 0;
  };
  (void)H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, visit, &cause);
  return cause.empty() ? "unknown cause" : cause;
}

// IEEE binary16: 1 sign, 5 exponent and 10 fraction bits, the type h5py calls float16.
Handle make_f16() {
  Handle type(H5Tcopy(H5T_IEEE_F32LE), H5Tclose);
  constexpr size_t kSignBit = 15;
  constexpr size_t kExponentBit = 10;
  constexpr size_t kExponentBits = 5;
  constexpr size_t kBias = 15;
  if (!type.valid() ||
      H5Tset_fields(type.get(), kSignBit, kExponentBit, kExponentBits, 0, kExponentBit) < 0 ||
      H5Tset_size(type.get(), 2) < 0 || H5Tset_ebias(type.get(), kBias) < 0) {
    throw InternalError("HDF5 cannot make the 16-bit float type: " + hdf5_cause());
  }
  return type;
}

Handle make_text_type() {
  Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  if (!type.valid() || H5Tset_size(type.get(), H5T_VARIABLE) < 0 ||
      H5Tset_cset(type.get(), H5T_CSET_UTF8) < 0) {
    throw InternalError("HDF5 cannot make the text type: " + hdf5_cause());
  }
  return type;
}

struct OpenDataset {
  std::string path;
  Handle id;
  Hdf5DatasetInfo info;
  int64_t chunk_rows = 1;
  uint64_t last_use = 0;
};

}  // namespace

struct Hdf5File::Impl {
  std::string path;
  Handle file;
  bool writable = false;
  bool failed = false;
  Handle f16;
  Handle text;
  Handle scalar;
  std::vector<OpenDataset> datasets;
  uint64_t uses = 0;
  std::vector<uint16_t> converted;

  Impl() = default;
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() {
    if (!file.valid()) return;
    try {
      (void)close_all();
    } catch (...) {  // NOLINT(bugprone-empty-catch): out of memory while closing; nothing is left
    }
  }

  static std::unique_ptr<Impl> make(const std::string& path);
  static std::unique_ptr<Impl> open_existing(const std::string& path, bool writable);

  // After a failed write, HDF5 1.10 cannot be asked to close anything of the file: it retries the
  // write over and over (at exit too), and follows objects that a failed close has freed. So what is
  // open is leaked, on purpose, and the descriptor is turned to /dev/null: the disk space comes back
  // as soon as the file is removed.
  void abandon() {
    if (failed || !file.valid()) return;
    failed = true;
    if (!writable) return;
    void* driver_handle = nullptr;
    if (H5Fget_vfd_handle(file.get(), H5P_DEFAULT, &driver_handle) >= 0) {
      const int nowhere = ::open("/dev/null", O_RDWR | O_CLOEXEC);
      if (nowhere >= 0) {
        (void)dup2(nowhere, *static_cast<int*>(driver_handle));
        (void)::close(nowhere);
      }
    }
    for (OpenDataset& at : datasets) at.id.leak();
    datasets.clear();
    file.leak();
  }

  [[noreturn]] void fail(const std::string& what) {
    const std::string cause = hdf5_cause();
    abandon();
    if (writable) throw ResourceError("cannot " + what + " in " + path + ": " + cause);
    throw DataError(path + ": cannot " + what + ": " + cause + "; the file may be damaged");
  }
  void check(herr_t status, const char* what, const std::string& object) {
    if (status < 0) fail(what + (" " + quote(object)));
  }
  Handle own(hid_t id, Handle::Closer closer, const char* what, const std::string& object) {
    if (id < 0) fail(what + (" " + quote(object)));
    return {id, closer};
  }
  void require_open() const {
    silence_hdf5();
    if (failed) throw ResourceError("cannot go on with " + path + ": an earlier write failed");
    if (!file.valid()) throw InternalError(path + " is used after it was closed");
  }
  void require_writable() const {
    require_open();
    if (!writable) throw InternalError(path + " was opened to read and is written to");
  }

  // The cause of the first failure; empty when all went well.
  std::string close_all();
  bool link_exists(const std::string& object_path) const;
  OpenDataset& dataset(const std::string& dataset_path);
  OpenDataset& keep(OpenDataset opened);
  void check_rows(const OpenDataset& at, int64_t first, int64_t n) const;
  void transfer(OpenDataset& at, int64_t first, int64_t n, void* values, hid_t memory_type,
                bool write);
  Handle open_attribute(const std::string& object_path, const std::string& name);
  void write_attribute(const std::string& object_path, const std::string& name, hid_t type,
                       const void* value);
  void write_whole(const std::string& dataset_path, hid_t type, size_t n, const void* values);
  Handle open_column(const std::string& dataset_path, size_t& n);
  Handle link_properties();
  // Of a new dataset, without a time stamp: that would make two runs with the same result differ.
  Handle dataset_properties(const std::string& dataset_path);
};

std::string Hdf5File::Impl::close_all() {
  silence_hdf5();
  std::string cause;
  const auto note = [&](bool good) {
    if (good) return;
    if (cause.empty()) cause = hdf5_cause();
    abandon();
  };
  // Flushed first, so that a full disk shows before anything is closed.
  if (writable && !failed) note(H5Fflush(file.get(), H5F_SCOPE_GLOBAL) >= 0);
  while (!datasets.empty()) {
    Handle dataset = std::move(datasets.back().id);
    datasets.pop_back();
    note(dataset.close());
  }
  note(file.close());
  return cause;
}

std::unique_ptr<Hdf5File::Impl> Hdf5File::Impl::make(const std::string& path) {
  silence_hdf5();
  auto impl = std::make_unique<Impl>();
  impl->path = path;
  impl->writable = true;
  impl->f16 = make_f16();
  impl->text = make_text_type();
  impl->scalar = Handle(H5Screate(H5S_SCALAR), H5Sclose);
  return impl;
}

namespace {

Handle file_access() {
  Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  // Strong: closing the file closes all that was left open in it. No locks: parallel file systems
  // often have none, and outputs are private until they are renamed.
  if (!access.valid() || H5Pset_fclose_degree(access.get(), H5F_CLOSE_STRONG) < 0 ||
      H5Pset_file_locking(access.get(), false, true) < 0) {
    throw InternalError("HDF5 file access properties: " + hdf5_cause());
  }
  return access;
}

Handle dataset_access(int64_t chunk_bytes) {
  Handle access(H5Pcreate(H5P_DATASET_ACCESS), H5Pclose);
  const int64_t bytes = std::max(kCacheBytes, kCacheChunks * chunk_bytes);
  // 1.0: a chunk written in full leaves the cache before one that waits for its other half.
  if (!access.valid() ||
      H5Pset_chunk_cache(access.get(), kCacheSlots, static_cast<size_t>(bytes), 1.0) < 0) {
    throw InternalError("HDF5 dataset access properties: " + hdf5_cause());
  }
  return access;
}

}  // namespace

Hdf5File::Hdf5File(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Hdf5File::~Hdf5File() = default;
Hdf5File::Hdf5File(Hdf5File&&) noexcept = default;
Hdf5File& Hdf5File::operator=(Hdf5File&&) noexcept = default;

Hdf5File Hdf5File::create(const std::string& path) {
  auto impl = Impl::make(path);
  const Handle access = file_access();  // closed late: any HDF5 call forgets the last error
  impl->file = Handle(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access.get()), H5Fclose);
  if (!impl->file.valid()) {
    throw ResourceError("cannot make the HDF5 file " + path + ": " + hdf5_cause());
  }
  return Hdf5File(std::move(impl));
}

std::unique_ptr<Hdf5File::Impl> Hdf5File::Impl::open_existing(const std::string& path,
                                                              bool writable) {
  auto impl = make(path);
  impl->writable = writable;
  if (::access(path.c_str(), R_OK) != 0) {
    throw DataError(path + ": cannot be opened: " + std::strerror(errno));
  }
  if (writable && ::access(path.c_str(), W_OK) != 0) {
    throw ResourceError("cannot write to " + path + ": " + std::strerror(errno));
  }
  const Handle access = file_access();
  impl->file = Handle(H5Fopen(path.c_str(), writable ? H5F_ACC_RDWR : H5F_ACC_RDONLY, access.get()),
                      H5Fclose);
  if (!impl->file.valid()) {
    throw DataError(path + ": is not a whole HDF5 file: " + hdf5_cause());
  }
  return impl;
}

Hdf5File Hdf5File::open(const std::string& path) {
  return Hdf5File(Impl::open_existing(path, false));
}

Hdf5File Hdf5File::open_to_change(const std::string& path) {
  return Hdf5File(Impl::open_existing(path, true));
}

bool Hdf5File::Impl::link_exists(const std::string& object_path) const {
  // H5Lexists wants every part before the last to exist: ask for each in turn.
  if (object_path.find_first_not_of('/') == std::string::npos) return true;
  for (size_t slash = object_path.find('/', 1);; slash = object_path.find('/', slash + 1)) {
    const std::string part = object_path.substr(0, slash);
    if (H5Lexists(file.get(), part.c_str(), H5P_DEFAULT) <= 0) return false;
    if (slash == std::string::npos) return true;
  }
}

bool Hdf5File::exists(const std::string& path) {
  impl_->require_open();
  return impl_->link_exists(path);
}

std::vector<std::string> Hdf5File::list(const std::string& group_path) {
  impl_->require_open();
  std::vector<std::string> names;
  if (!impl_->link_exists(group_path)) return names;
  const Handle group = impl_->own(H5Gopen2(impl_->file.get(), group_path.c_str(), H5P_DEFAULT),
                                  H5Gclose, "open group", group_path);
  const auto visit = [](hid_t, const char* name, const H5L_info_t*, void* out) -> herr_t {
    static_cast<std::vector<std::string>*>(out)->emplace_back(name);
    return 0;
  };
  impl_->check(H5Literate(group.get(), H5_INDEX_NAME, H5_ITER_NATIVE, nullptr, visit, &names),
               "list", group_path);
  std::sort(names.begin(), names.end());
  return names;
}

Handle Hdf5File::Impl::open_attribute(const std::string& object_path, const std::string& name) {
  if (!link_exists(object_path) ||
      H5Aexists_by_name(file.get(), object_path.c_str(), name.c_str(), H5P_DEFAULT) <= 0) {
    throw DataError(path + ": object " + quote(object_path) + " has no attribute " + quote(name) +
                    "; expected a file written by chromamba");
  }
  return own(
      H5Aopen_by_name(file.get(), object_path.c_str(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT),
      H5Aclose, "open attribute", name);
}

void Hdf5File::Impl::write_attribute(const std::string& object_path, const std::string& name,
                                     hid_t type, const void* value) {
  require_writable();
  const std::string what = object_path + " " + name;
  const htri_t there =
      H5Aexists_by_name(file.get(), object_path.c_str(), name.c_str(), H5P_DEFAULT);
  check(there, "find attribute", what);
  if (there > 0) {
    check(H5Adelete_by_name(file.get(), object_path.c_str(), name.c_str(), H5P_DEFAULT),
          "replace attribute", what);
  }
  Handle attribute = own(H5Acreate_by_name(file.get(), object_path.c_str(), name.c_str(), type,
                                           scalar.get(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
                         H5Aclose, "make attribute", what);
  check(H5Awrite(attribute.get(), type, value), "write attribute", what);
  if (!attribute.close()) fail("write attribute " + quote(what));
}

void Hdf5File::set_attribute(const std::string& object_path, const std::string& name,
                             const std::string& value) {
  const char* text = value.c_str();
  impl_->write_attribute(object_path, name, impl_->text.get(), &text);
}

void Hdf5File::set_attribute(const std::string& object_path, const std::string& name,
                             const char* value) {
  impl_->write_attribute(object_path, name, impl_->text.get(), &value);
}

void Hdf5File::set_attribute(const std::string& object_path, const std::string& name,
                             int64_t value) {
  impl_->write_attribute(object_path, name, H5T_NATIVE_INT64, &value);
}

void Hdf5File::set_attribute(const std::string& object_path, const std::string& name,
                             double value) {
  impl_->write_attribute(object_path, name, H5T_NATIVE_DOUBLE, &value);
}

bool Hdf5File::has_attribute(const std::string& object_path, const std::string& name) {
  impl_->require_open();
  return impl_->link_exists(object_path) &&
         H5Aexists_by_name(impl_->file.get(), object_path.c_str(), name.c_str(), H5P_DEFAULT) > 0;
}

std::string Hdf5File::text_attribute(const std::string& object_path, const std::string& name) {
  impl_->require_open();
  const Handle attribute = impl_->open_attribute(object_path, name);
  const Handle type(H5Aget_type(attribute.get()), H5Tclose);
  if (H5Tget_class(type.get()) != H5T_STRING || H5Tis_variable_str(type.get()) <= 0) {
    throw DataError(impl_->path + ": attribute " + quote(name) + " of " + quote(object_path) +
                    " is not text of variable length; expected a file written by chromamba");
  }
  char* text = nullptr;
  impl_->check(H5Aread(attribute.get(), impl_->text.get(), &text), "read attribute", name);
  std::string value = text != nullptr ? text : "";
  (void)H5free_memory(text);
  return value;
}

int64_t Hdf5File::integer_attribute(const std::string& object_path, const std::string& name) {
  impl_->require_open();
  const Handle attribute = impl_->open_attribute(object_path, name);
  const Handle type(H5Aget_type(attribute.get()), H5Tclose);
  const Handle space(H5Aget_space(attribute.get()), H5Sclose);
  if (H5Tget_class(type.get()) != H5T_INTEGER || H5Sget_simple_extent_npoints(space.get()) != 1) {
    throw DataError(impl_->path + ": attribute " + quote(name) + " of " + quote(object_path) +
                    " is not one whole number; expected a file written by chromamba");
  }
  int64_t value = 0;
  impl_->check(H5Aread(attribute.get(), H5T_NATIVE_INT64, &value), "read attribute", name);
  return value;
}

void Hdf5File::copy_attributes(Hdf5File& from, const std::string& from_path,
                               const std::string& to_path) {
  Impl& source = *from.impl_;
  source.require_open();
  if (!source.link_exists(from_path)) {
    throw DataError(source.path + ": has no object " + quote(from_path));
  }
  const Handle object = source.own(H5Oopen(source.file.get(), from_path.c_str(), H5P_DEFAULT),
                                   H5Oclose, "open", from_path);
  std::vector<std::string> names;
  const auto visit = [](hid_t, const char* name, const H5A_info_t*, void* out) -> herr_t {
    static_cast<std::vector<std::string>*>(out)->emplace_back(name);
    return 0;
  };
  source.check(H5Aiterate2(object.get(), H5_INDEX_NAME, H5_ITER_INC, nullptr, visit, &names),
               "list the attributes of", from_path);
  for (const std::string& name : names) {
    const Handle attribute = source.open_attribute(from_path, name);
    const Handle type(H5Aget_type(attribute.get()), H5Tclose);
    switch (H5Tget_class(type.get())) {
      case H5T_STRING:
        set_attribute(to_path, name, from.text_attribute(from_path, name));
        break;
      case H5T_INTEGER:
        set_attribute(to_path, name, from.integer_attribute(from_path, name));
        break;
      case H5T_FLOAT: {
        const Handle space(H5Aget_space(attribute.get()), H5Sclose);
        double value = 0;
        if (H5Sget_simple_extent_npoints(space.get()) == 1) {
          source.check(H5Aread(attribute.get(), H5T_NATIVE_DOUBLE, &value), "read attribute", name);
          set_attribute(to_path, name, value);
          break;
        }
        [[fallthrough]];
      }
      default:
        throw DataError(source.path + ": attribute " + quote(name) + " of " + quote(from_path) +
                        " is of a type that cannot be copied; expected text or one number");
    }
  }
}

Handle Hdf5File::Impl::link_properties() {
  Handle links = own(H5Pcreate(H5P_LINK_CREATE), H5Pclose, "prepare links for", path);
  check(H5Pset_create_intermediate_group(links.get(), 1), "prepare links for", path);
  check(H5Pset_char_encoding(links.get(), H5T_CSET_UTF8), "prepare links for", path);
  return links;
}

OpenDataset& Hdf5File::Impl::keep(OpenDataset opened) {
  opened.last_use = ++uses;
  if (datasets.size() < kOpenDatasets) return datasets.emplace_back(std::move(opened));
  OpenDataset& oldest =
      *std::min_element(datasets.begin(), datasets.end(),
                        [](const auto& a, const auto& b) { return a.last_use < b.last_use; });
  if (!oldest.id.close()) fail("write dataset " + quote(oldest.path));
  oldest = std::move(opened);
  return oldest;
}

void Hdf5File::create_dataset(const std::string& path, int64_t rows, int64_t columns,
                              FloatType type, int deflate_level) {
  Impl& self = *impl_;
  self.require_writable();
  if (rows < 0 || columns < 0 || deflate_level < 0 || deflate_level > 9) {
    throw InternalError(self.path + ": dataset " + quote(path) + " of " + std::to_string(rows) +
                        " rows, " + std::to_string(columns) + " columns, deflate " +
                        std::to_string(deflate_level));
  }
  if (self.link_exists(path)) {
    throw InternalError(self.path + ": dataset " + quote(path) + " exists already");
  }
  const int rank = columns == 0 ? 1 : 2;
  const int64_t row_bytes = std::max<int64_t>(columns, 1) * (type == FloatType::f16 ? 2 : 4);
  const auto fitting = static_cast<uint64_t>(std::max<int64_t>(1, kChunkBytes / row_bytes));
  const int64_t chunk_rows =
      std::clamp<int64_t>(std::min(static_cast<int64_t>(std::bit_floor(fitting)), kChunkRows), 1,
                          std::max<int64_t>(rows, 1));
  const hsize_t shape[2] = {static_cast<hsize_t>(rows), static_cast<hsize_t>(columns)};
  const hsize_t chunk[2] = {static_cast<hsize_t>(chunk_rows), static_cast<hsize_t>(columns)};

  const Handle space =
      self.own(H5Screate_simple(rank, shape, nullptr), H5Sclose, "make the shape of", path);
  const Handle properties = self.dataset_properties(path);
  self.check(H5Pset_chunk(properties.get(), rank, chunk), "set the chunks of", path);
  if (deflate_level > 0) {
    self.check(H5Pset_shuffle(properties.get()), "set shuffle for", path);
    self.check(H5Pset_deflate(properties.get(), static_cast<unsigned>(deflate_level)),
               "set deflate for", path);
  }
  const bool half = type == FloatType::f16;
  const uint16_t half_nan = 0x7e00;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const void* fill = half ? static_cast<const void*>(&half_nan) : &nan;
  const hid_t stored = half ? self.f16.get() : H5T_IEEE_F32LE;
  self.check(H5Pset_fill_value(properties.get(), stored, fill), "set the fill value of", path);
  OpenDataset opened;
  opened.path = path;
  opened.info = {rows, columns, type};
  opened.chunk_rows = chunk_rows;
  opened.id = self.own(
      H5Dcreate2(self.file.get(), path.c_str(), stored, space.get(), self.link_properties().get(),
                 properties.get(), dataset_access(chunk_rows * row_bytes).get()),
      H5Dclose, "make dataset", path);
  self.keep(std::move(opened));
}

OpenDataset& Hdf5File::Impl::dataset(const std::string& dataset_path) {
  require_open();
  for (OpenDataset& at : datasets) {
    if (at.path == dataset_path) {
      at.last_use = ++uses;
      return at;
    }
  }
  if (!link_exists(dataset_path)) {
    const std::string what = path + ": has no dataset " + quote(dataset_path);
    if (writable) throw InternalError(what);
    throw DataError(what + "; expected a file written by chromamba");
  }
  OpenDataset opened;
  opened.path = dataset_path;
  opened.id = own(H5Dopen2(file.get(), dataset_path.c_str(), H5P_DEFAULT), H5Dclose, "open dataset",
                  dataset_path);
  const Handle type(H5Dget_type(opened.id.get()), H5Tclose);
  const Handle space(H5Dget_space(opened.id.get()), H5Sclose);
  const Handle properties(H5Dget_create_plist(opened.id.get()), H5Pclose);
  const int rank = H5Sget_simple_extent_ndims(space.get());
  const bool half = H5Tequal(type.get(), f16.get()) > 0;
  if ((!half && H5Tequal(type.get(), H5T_IEEE_F32LE) <= 0) || rank < 1 || rank > 2) {
    throw DataError(path + ": dataset " + quote(dataset_path) +
                    " is not a 16- or 32-bit float array of one or two dimensions");
  }
  hsize_t shape[2] = {0, 0};
  hsize_t chunk[2] = {1, 1};
  check(H5Sget_simple_extent_dims(space.get(), shape, nullptr), "read the shape of", dataset_path);
  opened.info = {static_cast<int64_t>(shape[0]), static_cast<int64_t>(shape[1]),
                 half ? FloatType::f16 : FloatType::f32};
  if (H5Pget_layout(properties.get()) == H5D_CHUNKED) {
    check(H5Pget_chunk(properties.get(), rank, chunk), "read the chunks of", dataset_path);
    opened.chunk_rows = static_cast<int64_t>(chunk[0]);
    // Opened once more, now with a cache that suits its chunks.
    const auto chunk_bytes =
        static_cast<int64_t>(chunk[0] * (rank == 2 ? chunk[1] : 1) * H5Tget_size(type.get()));
    (void)opened.id.close();
    opened.id = own(H5Dopen2(file.get(), dataset_path.c_str(), dataset_access(chunk_bytes).get()),
                    H5Dclose, "open dataset", dataset_path);
  }
  return keep(std::move(opened));
}

Hdf5DatasetInfo Hdf5File::describe(const std::string& path) { return impl_->dataset(path).info; }

void Hdf5File::Impl::check_rows(const OpenDataset& at, int64_t first, int64_t n) const {
  if (first < 0 || n < 0 || first > at.info.rows - n) {
    throw InternalError(path + ": rows " + std::to_string(first) + "-" + std::to_string(first + n) +
                        " of dataset " + quote(at.path) + ", which has " +
                        std::to_string(at.info.rows));
  }
}

// One hyperslab of whole rows, to or from memory of the given type.
void Hdf5File::Impl::transfer(OpenDataset& at, int64_t first, int64_t n, void* values,
                              hid_t memory_type, bool write) {
  const int rank = at.info.columns == 0 ? 1 : 2;
  const hsize_t start[2] = {static_cast<hsize_t>(first), 0};
  const hsize_t count[2] = {static_cast<hsize_t>(n), static_cast<hsize_t>(at.info.columns)};
  const Handle memory =
      own(H5Screate_simple(rank, count, nullptr), H5Sclose, "select rows of", at.path);
  const Handle selected = own(H5Dget_space(at.id.get()), H5Sclose, "select rows of", at.path);
  check(H5Sselect_hyperslab(selected.get(), H5S_SELECT_SET, start, nullptr, count, nullptr),
        "select rows of", at.path);
  if (write) {
    check(H5Dwrite(at.id.get(), memory_type, memory.get(), selected.get(), H5P_DEFAULT, values),
          "write dataset", at.path);
  } else {
    check(H5Dread(at.id.get(), memory_type, memory.get(), selected.get(), H5P_DEFAULT, values),
          "read dataset", at.path);
  }
}

namespace {

// Calls use(first row, rows) for pieces that end on chunk borders and hold about
// kConvertedValues values.
template <typename Use>
void for_pieces(const OpenDataset& at, int64_t first, int64_t n, const Use& use) {
  const int64_t columns = std::max<int64_t>(at.info.columns, 1);
  const int64_t rows =
      std::max<int64_t>(1, kConvertedValues / columns / at.chunk_rows) * at.chunk_rows;
  for (int64_t row = first; row < first + n;) {
    const int64_t stop = std::min(first + n, (row / rows + 1) * rows);
    use(row, stop - row);
    row = stop;
  }
}

}  // namespace

void Hdf5File::write_rows(const std::string& path, int64_t first_row, int64_t n_rows,
                          const float* values) {
  Impl& self = *impl_;
  self.require_writable();
  OpenDataset& at = self.dataset(path);
  self.check_rows(at, first_row, n_rows);
  if (n_rows == 0) return;
  if (at.info.type == FloatType::f32) {
    self.transfer(at, first_row, n_rows, const_cast<float*>(values), H5T_NATIVE_FLOAT, true);
    return;
  }
  const int64_t columns = std::max<int64_t>(at.info.columns, 1);
  for_pieces(at, first_row, n_rows, [&](int64_t row, int64_t rows) {
    self.converted.resize(static_cast<size_t>(rows * columns));
    const float* in = values + (row - first_row) * columns;
    for (uint16_t& bits : self.converted) bits = f32_to_f16(*in++);
    self.transfer(at, row, rows, self.converted.data(), self.f16.get(), true);
  });
}

void Hdf5File::write_rows_f16(const std::string& path, int64_t first_row, int64_t n_rows,
                              const uint16_t* values) {
  Impl& self = *impl_;
  self.require_writable();
  OpenDataset& at = self.dataset(path);
  self.check_rows(at, first_row, n_rows);
  if (at.info.type != FloatType::f16) {
    throw InternalError(self.path + ": 16-bit floats for the 32-bit dataset " + quote(path));
  }
  if (n_rows > 0) {
    self.transfer(at, first_row, n_rows, const_cast<uint16_t*>(values), self.f16.get(), true);
  }
}

void Hdf5File::read_rows(const std::string& path, int64_t first_row, int64_t n_rows,
                         float* values) {
  Impl& self = *impl_;
  OpenDataset& at = self.dataset(path);
  self.check_rows(at, first_row, n_rows);
  if (n_rows == 0) return;
  if (at.info.type == FloatType::f32) {
    self.transfer(at, first_row, n_rows, values, H5T_NATIVE_FLOAT, false);
    return;
  }
  const int64_t columns = std::max<int64_t>(at.info.columns, 1);
  for_pieces(at, first_row, n_rows, [&](int64_t row, int64_t rows) {
    self.converted.resize(static_cast<size_t>(rows * columns));
    self.transfer(at, row, rows, self.converted.data(), self.f16.get(), false);
    float* out = values + (row - first_row) * columns;
    for (const uint16_t bits : self.converted) *out++ = f16_to_f32(bits);
  });
}

Handle Hdf5File::Impl::dataset_properties(const std::string& dataset_path) {
  Handle properties = own(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, "prepare dataset", dataset_path);
  check(H5Pset_obj_track_times(properties.get(), false), "prepare dataset", dataset_path);
  return properties;
}

void Hdf5File::Impl::write_whole(const std::string& dataset_path, hid_t type, size_t n,
                                 const void* values) {
  require_writable();
  if (link_exists(dataset_path)) {
    throw InternalError(path + ": dataset " + quote(dataset_path) + " exists already");
  }
  const hsize_t shape = n;
  const Handle space =
      own(H5Screate_simple(1, &shape, nullptr), H5Sclose, "make the shape of", dataset_path);
  const Handle properties = dataset_properties(dataset_path);
  Handle column = own(H5Dcreate2(file.get(), dataset_path.c_str(), type, space.get(),
                                 link_properties().get(), properties.get(), H5P_DEFAULT),
                      H5Dclose, "make dataset", dataset_path);
  if (n > 0) {
    check(H5Dwrite(column.get(), type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values), "write dataset",
          dataset_path);
  }
  if (!column.close()) fail("write dataset " + quote(dataset_path));
}

void Hdf5File::write_column(const std::string& path, const std::vector<std::string>& values) {
  std::vector<const char*> texts;
  texts.reserve(values.size());
  for (const std::string& value : values) texts.push_back(value.c_str());
  impl_->write_whole(path, impl_->text.get(), texts.size(), texts.data());
}

void Hdf5File::write_column(const std::string& path, const std::vector<int64_t>& values) {
  impl_->write_whole(path, H5T_STD_I64LE, values.size(), values.data());
}

Handle Hdf5File::Impl::open_column(const std::string& dataset_path, size_t& n) {
  require_open();
  if (!link_exists(dataset_path)) {
    throw DataError(path + ": has no dataset " + quote(dataset_path) +
                    "; expected a file written by chromamba");
  }
  Handle column = own(H5Dopen2(file.get(), dataset_path.c_str(), H5P_DEFAULT), H5Dclose,
                      "open dataset", dataset_path);
  const Handle space(H5Dget_space(column.get()), H5Sclose);
  if (H5Sget_simple_extent_ndims(space.get()) != 1) {
    throw DataError(path + ": dataset " + quote(dataset_path) + " is not one column");
  }
  n = static_cast<size_t>(H5Sget_simple_extent_npoints(space.get()));
  return column;
}

std::vector<std::string> Hdf5File::read_text_column(const std::string& path) {
  Impl& self = *impl_;
  size_t n = 0;
  const Handle column = self.open_column(path, n);
  const Handle type(H5Dget_type(column.get()), H5Tclose);
  if (H5Tget_class(type.get()) != H5T_STRING || H5Tis_variable_str(type.get()) <= 0) {
    throw DataError(self.path + ": dataset " + quote(path) + " is not text of variable length");
  }
  std::vector<char*> texts(n, nullptr);
  if (n > 0) {
    self.check(H5Dread(column.get(), self.text.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, texts.data()),
               "read dataset", path);
  }
  std::vector<std::string> values;
  values.reserve(n);
  for (char* text : texts) {
    values.emplace_back(text != nullptr ? text : "");
    (void)H5free_memory(text);
  }
  return values;
}

std::vector<int64_t> Hdf5File::read_integer_column(const std::string& path) {
  Impl& self = *impl_;
  size_t n = 0;
  const Handle column = self.open_column(path, n);
  const Handle type(H5Dget_type(column.get()), H5Tclose);
  if (H5Tget_class(type.get()) != H5T_INTEGER) {
    throw DataError(self.path + ": dataset " + quote(path) + " is not of whole numbers");
  }
  std::vector<int64_t> values(n);
  if (n > 0) {
    self.check(
        H5Dread(column.get(), H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()),
        "read dataset", path);
  }
  return values;
}

void Hdf5File::flush() {
  impl_->require_writable();
  impl_->check(H5Fflush(impl_->file.get(), H5F_SCOPE_GLOBAL), "flush", "/");
}

void Hdf5File::close() {
  Impl& self = *impl_;
  if (self.failed) {
    throw ResourceError("cannot finish " + self.path + ": an earlier write failed");
  }
  if (!self.file.valid()) return;
  const std::string cause = self.close_all();
  if (!cause.empty()) {
    if (self.writable) throw ResourceError("cannot finish writing " + self.path + ": " + cause);
    throw DataError(self.path + ": cannot be closed: " + cause);
  }
}

std::string hdf5_link_name(const std::string& contig) {
  std::string name;
  for (const char c : contig) {
    if (c == '/') {
      name += "%2F";
    } else if (c == '%') {
      name += "%25";
    } else {
      name += c;
    }
  }
  return name;
}

}  // namespace chromamba::io
