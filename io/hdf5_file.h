// HDF5 files of float datasets by row (one row a base, bin, region or read), columns of text and
// whole numbers, and attributes. Written so that h5py, R and MATLAB read them without help.
//
// f16 is IEEE binary16 as h5py knows it (numpy.float16), rounded to nearest even; text is UTF-8 of
// variable length (str for h5py attributes, asstr() for columns). Rows never written read as NaN.
//
// Float datasets are chunked over rows, all columns of a row in one chunk, about 512 KiB a chunk:
// a reader of one region touches few chunks, two neighbouring chunks fit the 1 MiB cache that HDF5
// gives a reader by default, and a chunk is big enough for deflate and for a striped file system.
// The rows of a chunk are a power of two up to 65,536, so that blocks of 65,536 rows are whole
// chunks; other blocks cost nothing either when they follow each other in either direction, since
// the chunk they share stays in a small cache.
//
// Memory: 8 open datasets at most, each with a cache of 4 MiB or 4 chunks; 4 MiB to convert f16.
//
// HDF5's C library is not thread-safe: at any time only one thread of the process may use any
// Hdf5File. Errors: ResourceError when the file cannot be made or written (a full disk may show
// only in close()), DataError when a file to read is missing, not HDF5 or damaged, or lacks an
// object, InternalError for shapes and rows that do not match the dataset. After a failed write,
// the rest of what HDF5 holds is thrown away: close() then throws again, the destructor is silent.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace chromamba::io {

enum class FloatType { f16, f32 };

struct Hdf5DatasetInfo {
  int64_t rows = 0;
  int64_t columns = 0;  // 0: one-dimensional
  FloatType type = FloatType::f32;
};

class Hdf5File {
 public:
  // A new file; what was at path is lost (give the temporary path of a PendingFile).
  static Hdf5File create(const std::string& path);
  // An existing file, to read.
  static Hdf5File open(const std::string& path);
  // An existing file, to read and change.
  static Hdf5File open_to_change(const std::string& path);

  ~Hdf5File();
  Hdf5File(Hdf5File&&) noexcept;
  Hdf5File& operator=(Hdf5File&&) noexcept;

  // Attributes of a dataset or group ("/" is the root); an attribute that exists is replaced.
  void set_attribute(const std::string& object_path, const std::string& name,
                     const std::string& value);
  void set_attribute(const std::string& object_path, const std::string& name, const char* value);
  void set_attribute(const std::string& object_path, const std::string& name, int64_t value);
  void set_attribute(const std::string& object_path, const std::string& name, double value);

  bool has_attribute(const std::string& object_path, const std::string& name);
  std::string text_attribute(const std::string& object_path, const std::string& name);
  int64_t integer_attribute(const std::string& object_path, const std::string& name);
  // Copies all attributes of an object of another file (text, whole numbers, floats).
  void copy_attributes(Hdf5File& from, const std::string& from_path, const std::string& to_path);

  // True when there is a dataset or group of that path.
  bool exists(const std::string& path);
  // The names of what a group holds, sorted by bytes; empty when there is no such group.
  std::vector<std::string> list(const std::string& group_path);

  // A float dataset of [rows] (columns == 0) or [rows, columns]; groups above it are made.
  // deflate_level 0 (none) .. 9, with shuffle before it. rows may be 0.
  void create_dataset(const std::string& path, int64_t rows, int64_t columns, FloatType type,
                      int deflate_level);
  // The shape of a float dataset.
  Hdf5DatasetInfo describe(const std::string& path);

  // Rows [first_row, first_row + n_rows), in any order of calls; values are row-major.
  void write_rows(const std::string& path, int64_t first_row, int64_t n_rows, const float* values);
  // The same for values that are binary16 already; the dataset must be f16.
  void write_rows_f16(const std::string& path, int64_t first_row, int64_t n_rows,
                      const uint16_t* values);
  void read_rows(const std::string& path, int64_t first_row, int64_t n_rows, float* values);

  // A whole one-dimensional dataset at once (names, contigs, starts, ...).
  void write_column(const std::string& path, const std::vector<std::string>& values);
  void write_column(const std::string& path, const std::vector<int64_t>& values);
  std::vector<std::string> read_text_column(const std::string& path);
  std::vector<int64_t> read_integer_column(const std::string& path);

  // Writes what is still in memory to the file, which stays open.
  void flush();
  void close();

 private:
  struct Impl;
  explicit Hdf5File(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// A contig's name as a link name: '/' becomes %2F and '%' becomes %25. The `contig` attribute
// keeps the true name.
std::string hdf5_link_name(const std::string& contig);

}  // namespace chromamba::io
