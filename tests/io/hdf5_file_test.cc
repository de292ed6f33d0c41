#include "io/hdf5_file.h"

#include <fcntl.h>
#include <sys/wait.h>

#include <chrono>
#include <cmath>
#include <limits>
#include <random>

#include "io/bigwig.h"
#include "kernels/base/half.h"
#include "tests/io/support.h"

namespace chromamba::io {
namespace {

using testing::message_of;
using testing::slurp;
using testing::TempFolder;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

std::vector<float> random_values(size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> values(n);
  for (float& value : values) value = normal(random);
  return values;
}

TEST_CASE("link names", "[hdf5_file]") {
  CHECK(hdf5_link_name("chr1") == "chr1");
  CHECK(hdf5_link_name("a/b%2F") == "a%2Fb%252F");
}

TEST_CASE("rows come back, whatever the order they were written in", "[hdf5_file]") {
  TempFolder folder;
  struct Shape {
    int64_t rows, columns;
  };
  for (const Shape shape :
       {Shape{100'000, 0}, Shape{5000, 64}, Shape{3, 7}, Shape{1, 1}, Shape{2000, 300'000 / 100}}) {
    for (const int deflate : {0, 3}) {
      for (const FloatType type : {FloatType::f16, FloatType::f32}) {
        for (const int order : {0, 1, 2}) {
          INFO(shape.rows << " x " << shape.columns << ", deflate " << deflate << ", order "
                          << order);
          const int64_t width = std::max<int64_t>(shape.columns, 1);
          std::vector<float> values =
              random_values(static_cast<size_t>(shape.rows * width), static_cast<unsigned>(order));
          const std::string path = folder / "a.h5";
          Hdf5File file = Hdf5File::create(path);
          file.create_dataset("/embedding/x", shape.rows, shape.columns, type, deflate);
          // Blocks that fit no chunk.
          const int64_t step = std::max<int64_t>(1, shape.rows / 7 + 1);
          std::vector<int64_t> starts;
          for (int64_t row = 0; row < shape.rows; row += step) starts.push_back(row);
          if (order == 1) std::reverse(starts.begin(), starts.end());
          if (order == 2) std::shuffle(starts.begin(), starts.end(), std::mt19937(1));
          for (const int64_t row : starts) {
            file.write_rows("/embedding/x", row, std::min(step, shape.rows - row),
                            values.data() + row * width);
          }
          file.close();
          if (type == FloatType::f16) {
            for (float& value : values) value = f16_to_f32(f32_to_f16(value));
          }
          Hdf5File back = Hdf5File::open(path);
          const Hdf5DatasetInfo info = back.describe("/embedding/x");
          CHECK((info.rows == shape.rows && info.columns == shape.columns && info.type == type));
          std::vector<float> got(values.size(), kNaN);
          back.read_rows("/embedding/x", 0, shape.rows, got.data());
          CHECK(got == values);
          got.assign(static_cast<size_t>(width), kNaN);
          back.read_rows("/embedding/x", shape.rows / 2, 1, got.data());
          CHECK(std::equal(got.begin(), got.end(), values.begin() + shape.rows / 2 * width));
        }
      }
    }
  }
}

TEST_CASE("rows that were never written are NaN; no rows are fine", "[hdf5_file]") {
  TempFolder folder;
  const std::string path = folder / "a.h5";
  for (const FloatType type : {FloatType::f16, FloatType::f32}) {
    Hdf5File file = Hdf5File::create(path);
    file.create_dataset("/a", 200'000, 0, type, 1);
    file.create_dataset("/b", 0, 16, type, 1);
    file.create_dataset("/c", 0, 0, type, 0);
    const float value = 1.5F;
    file.write_rows("/a", 100'000, 1, &value);
    file.write_rows("/b", 0, 0, &value);
    file.close();
    Hdf5File back = Hdf5File::open(path);
    std::vector<float> got(200'000);
    back.read_rows("/a", 0, 200'000, got.data());
    CHECK(std::count_if(got.begin(), got.end(), [](float x) { return std::isnan(x); }) == 199'999);
    CHECK(got[100'000] == 1.5F);
    CHECK(back.describe("/b").rows == 0);
    CHECK(back.describe("/b").columns == 16);
    back.read_rows("/b", 0, 0, got.data());
  }
}

TEST_CASE("f16 keeps special values and takes ready bits", "[hdf5_file]") {
  TempFolder folder;
  Hdf5File file = Hdf5File::create(folder / "a.h5");
  file.create_dataset("/x", 6, 0, FloatType::f16, 0);
  const float inf = std::numeric_limits<float>::infinity();
  const float values[] = {65504.0F, 70000.0F, -inf, kNaN, 1e-7F, 0.1F};
  file.write_rows("/x", 0, 6, values);
  float got[6];
  file.read_rows("/x", 0, 6, got);
  CHECK(got[0] == 65504.0F);
  CHECK(got[1] == inf);
  CHECK(got[2] == -inf);
  CHECK(std::isnan(got[3]));
  CHECK(got[4] == 0x1p-23F);  // the nearest subnormal: 2 * 2^-24
  CHECK(got[5] == 0.0999755859375F);
  const uint16_t bits[] = {0x3c00, 0xc000};
  file.write_rows_f16("/x", 2, 2, bits);
  file.read_rows("/x", 0, 6, got);
  CHECK(got[2] == 1.0F);
  CHECK(got[3] == -2.0F);
  file.create_dataset("/y", 6, 0, FloatType::f32, 0);
  CHECK_THROWS_AS(file.write_rows_f16("/y", 0, 2, bits), InternalError);
}

TEST_CASE("attributes, columns and lists", "[hdf5_file]") {
  TempFolder folder;
  const std::string path = folder / "a.h5";
  const std::vector<std::string> names = {"chr1", "", "é", std::string(100'000, 'x')};
  const std::vector<int64_t> starts = {0, -5, int64_t{1} << 40, 7};
  {
    Hdf5File file = Hdf5File::create(path);
    file.set_attribute("/", "format", "chromamba");
    file.set_attribute("/", "command", std::string(200'000, 'c'));  // beyond HDF5's 64 KiB header
    file.set_attribute("/", "format", "replaced");
    file.set_attribute("/", "version", int64_t{3});
    file.set_attribute("/", "half", 0.5);
    file.write_column("/regions/name", names);
    file.write_column("/regions/start", starts);
    file.write_column("/none/name", std::vector<std::string>{});
    file.write_column("/none/start", std::vector<int64_t>{});
    file.create_dataset("/embedding/" + hdf5_link_name("a/b"), 1, 2, FloatType::f32, 0);
    file.set_attribute("/embedding/a%2Fb", "contig", "a/b");
    CHECK_THROWS_AS(file.write_column("/regions/name", names), InternalError);
    file.close();
    file.close();
    CHECK_THROWS_AS(file.set_attribute("/", "x", "y"), InternalError);
  }
  Hdf5File file = Hdf5File::open(path);
  CHECK(file.text_attribute("/", "format") == "replaced");
  CHECK(file.text_attribute("/", "command").size() == 200'000);
  CHECK(file.integer_attribute("/", "version") == 3);
  CHECK(file.has_attribute("/", "half"));
  CHECK_FALSE(file.has_attribute("/", "none"));
  CHECK_FALSE(file.has_attribute("/nowhere/x", "none"));
  CHECK_THROWS_AS(file.text_attribute("/", "none"), DataError);
  CHECK_THROWS_AS(file.text_attribute("/", "version"), DataError);
  CHECK_THROWS_AS(file.integer_attribute("/", "format"), DataError);
  CHECK(file.read_text_column("/regions/name") == names);
  CHECK(file.read_integer_column("/regions/start") == starts);
  CHECK(file.read_text_column("/none/name").empty());
  CHECK(file.read_integer_column("/none/start").empty());
  CHECK_THROWS_AS(file.read_text_column("/regions/start"), DataError);
  CHECK_THROWS_AS(file.read_integer_column("/x"), DataError);
  CHECK(file.list("/") == std::vector<std::string>{"embedding", "none", "regions"});
  CHECK(file.list("/embedding") == std::vector<std::string>{"a%2Fb"});
  CHECK(file.list("/what").empty());
  CHECK(file.exists("/embedding/a%2Fb"));
  CHECK_FALSE(file.exists("/embedding/a"));
  CHECK_THROWS_AS(file.set_attribute("/", "x", "y"), InternalError);
  CHECK_THROWS_AS(file.describe("/embedding/c"), DataError);

  Hdf5File copy = Hdf5File::create(folder / "b.h5");
  copy.copy_attributes(file, "/", "/");
  CHECK(copy.text_attribute("/", "format") == "replaced");
  CHECK(copy.integer_attribute("/", "version") == 3);
}

TEST_CASE("a file can be opened again and changed", "[hdf5_file]") {
  TempFolder folder;
  const std::string path = folder / "a.h5";
  const std::vector<float> values = random_values(100'000, 1);
  {
    Hdf5File file = Hdf5File::create(path);
    file.create_dataset("/x", 100'000, 0, FloatType::f32, 1);
    file.write_rows("/x", 0, 40'000, values.data());
    file.flush();
    file.close();
  }
  {
    Hdf5File file = Hdf5File::open_to_change(path);
    file.write_rows("/x", 40'000, 60'000, values.data() + 40'000);
    file.close();
  }
  Hdf5File file = Hdf5File::open(path);
  std::vector<float> got(100'000);
  file.read_rows("/x", 0, 100'000, got.data());
  CHECK(got == values);
}

TEST_CASE("files that are not ours", "[hdf5_file]") {
  TempFolder folder;
  CHECK_MESSAGE_HAS(message_of<DataError>([&] { (void)Hdf5File::open(folder / "none.h5"); }),
                    "No such file");
  const std::string text = testing::put(folder / "a.txt", "not HDF5 at all");
  CHECK_THROWS_AS(Hdf5File::open(text), DataError);
  CHECK_MESSAGE_HAS(
      message_of<ResourceError>([&] { (void)Hdf5File::create(folder / "none/a.h5"); }),
      "No such file");
  const std::string path = folder / "a.h5";
  {
    Hdf5File file = Hdf5File::create(path);
    file.create_dataset("/x", 100'000, 0, FloatType::f32, 0);
    const std::vector<float> values = random_values(100'000, 1);
    file.write_rows("/x", 0, 100'000, values.data());
    file.close();
  }
  const std::string bytes = slurp(path);
  testing::put(path, bytes.substr(0, bytes.size() / 2));
  CHECK_THROWS_AS(Hdf5File::open(path), DataError);
}

TEST_CASE("misuse", "[hdf5_file]") {
  TempFolder folder;
  Hdf5File file = Hdf5File::create(folder / "a.h5");
  file.create_dataset("/x", 10, 2, FloatType::f32, 0);
  const std::vector<float> values(100);
  CHECK_THROWS_AS(file.create_dataset("/x", 10, 2, FloatType::f32, 0), InternalError);
  CHECK_THROWS_AS(file.create_dataset("/y", -1, 2, FloatType::f32, 0), InternalError);
  CHECK_THROWS_AS(file.create_dataset("/y", 1, 2, FloatType::f32, 10), InternalError);
  CHECK_THROWS_AS(file.write_rows("/x", 9, 2, values.data()), InternalError);
  CHECK_THROWS_AS(file.write_rows("/x", -1, 1, values.data()), InternalError);
  CHECK_THROWS_AS(file.write_rows("/none", 0, 1, values.data()), InternalError);
  file.write_rows("/x", 8, 2, values.data());  // and it still works
  file.close();
}

TEST_CASE("many datasets, more than are kept open, written in turn", "[hdf5_file]") {
  TempFolder folder;
  const std::string path = folder / "a.h5";
  Hdf5File file = Hdf5File::create(path);
  for (int i = 0; i < 2000; ++i) {
    const std::string name = "/log_likelihood/c" + std::to_string(i);
    file.create_dataset(name, 10, 0, FloatType::f32, 1);
    file.set_attribute(name, "contig", std::string("c").append(std::to_string(i)));
  }
  for (int half = 0; half < 2; ++half) {
    for (int i = 0; i < 2000; ++i) {
      const std::vector<float> values(5, static_cast<float>(i * 2 + half));
      file.write_rows("/log_likelihood/c" + std::to_string(i), half * 5, 5, values.data());
    }
  }
  file.close();
  Hdf5File back = Hdf5File::open(path);
  CHECK(back.list("/log_likelihood").size() == 2000);
  for (int i = 0; i < 2000; i += 37) {
    std::vector<float> got(10);
    back.read_rows("/log_likelihood/c" + std::to_string(i), 0, 10, got.data());
    CHECK(got[0] == static_cast<float>(i * 2));
    CHECK(got[9] == static_cast<float>(i * 2 + 1));
  }
}

TEST_CASE("blocks that fit no chunk do not compress chunks twice", "[hdf5_file]") {
  TempFolder folder;
  const std::vector<float> values = random_values(size_t{200'000} * 64, 3);
  // A chunk compressed twice leaves its first copy as a hole, so the size of the file tells.
  const auto size_of = [&](int64_t step, bool descending) {
    const std::string path = folder / "a.h5";
    Hdf5File file = Hdf5File::create(path);
    file.create_dataset("/x", 200'000, 64, FloatType::f16, 1);
    file.create_dataset("/y", 200'000, 0, FloatType::f32, 1);
    std::vector<int64_t> starts;
    for (int64_t row = 0; row < 200'000; row += step) starts.push_back(row);
    if (descending) std::reverse(starts.begin(), starts.end());
    for (const int64_t row : starts) {
      const int64_t n = std::min<int64_t>(step, 200'000 - row);
      file.write_rows("/x", row, n, values.data() + row * 64);
      file.write_rows("/y", row, n, values.data() + row);
    }
    file.close();
    return static_cast<double>(std::filesystem::file_size(path));
  };
  const double aligned = size_of(65'536, false);
  for (const int64_t step : {65'536, 50'000, 3001}) {
    for (const bool descending : {false, true}) {
      INFO("step " << step << (descending ? " descending" : " ascending"));
      CHECK(size_of(step, descending) < aligned * 1.01);
    }
  }
}

// Runs in a child process, so that HDF5's work at exit is part of the test. Returns the child's
// standard error, empty when all went as it should.
std::string run_child(const std::function<void()>& work, const std::string& errors) {
  const pid_t child = fork();
  if (child == 0) {
    const int file = open(errors.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    (void)dup2(file, STDERR_FILENO);
    // What Catch had not yet written to standard output is not the child's to write.
    (void)dup2(open("/dev/null", O_WRONLY), STDOUT_FILENO);
    alarm(60);  // a hang becomes a signal
    int code = 1;
    try {
      work();
      code = 0;
    } catch (const std::exception& error) {
      std::fprintf(stderr, "unexpected: %s\n", error.what());
    }
    std::exit(code);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  std::string text = slurp(errors);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    text += "status " + std::to_string(status);
  }
  return text;
}

TEST_CASE("HDF5 on a full disk: an error, no hang, a quiet exit", "[hdf5_file]") {
  TempFolder folder;
  const std::vector<float> values = random_values(size_t{16} * 65'536, 5);
  int failures = 0;
  for (const int64_t kib : {4, 8, 16, 60, 100, 500, 600, 1100, 2048, 3000, 4200, 4400}) {
    for (const int deflate : {0, 1}) {
      for (const bool by_destructor : {false, true}) {
        const testing::SmallDisk disk(kib << 10);
        if (!disk.ok()) return;
        INFO("disk of " << kib << " KiB, deflate " << deflate);
        const std::string result = run_child(
            [&] {
              bool thrown = false;
              std::string message;
              try {
                Hdf5File file = Hdf5File::create(disk / "a.h5");
                file.set_attribute("/", "command", std::string(10'000, 'x'));
                for (int i = 0; i < 16; ++i) {
                  const std::string name = "/x/c" + std::to_string(i);
                  file.create_dataset(name, 65'536, 0, FloatType::f32, deflate);
                  file.write_rows(name, 0, 65'536, values.data() + i * 65'536);
                }
                file.write_column("/names", std::vector<std::string>(1000, "some name"));
                file.close();
              } catch (const ResourceError& error) {
                thrown = true;
                message = error.what();
              }
              if (thrown && message.find("No space left") == std::string::npos) {
                throw std::runtime_error("another cause: " + message);
              }
              if (!thrown && kib < 4096 && deflate == 0) throw std::runtime_error("no error");
              if (by_destructor) {
                // A failed file left to its destructor, then to exit.
                Hdf5File file = Hdf5File::create(disk / "a.h5");
                file.create_dataset("/x", 65'536, 16, FloatType::f32, deflate);
                file.write_rows("/x", 0, 65'536, values.data());
              }
            },
            folder / "errors");
        if (by_destructor) {
          // The second file may be refused at once; then the error is the whole story.
          const bool refused = result.find("unexpected: cannot") == 0;
          CHECK((result.empty() || (refused && result.find("status 256") != std::string::npos)));
        } else {
          CHECK_THAT(result, Catch::Matchers::Equals(""));
        }
        ++failures;
      }
    }
  }
  CHECK(failures == 48);
}

TEST_CASE("after a failed write, all else fails too", "[hdf5_file]") {
  const testing::SmallDisk disk(1 << 20);
  if (!disk.ok()) return;
  const std::vector<float> values = random_values(1 << 20, 5);
  Hdf5File file = Hdf5File::create(disk / "a.h5");
  file.create_dataset("/x", 1 << 20, 0, FloatType::f32, 0);
  CHECK_MESSAGE_HAS(message_of<ResourceError>([&] {
                      file.write_rows("/x", 0, 1 << 20, values.data());
                      file.flush();
                    }),
                    "No space left");
  CHECK_THROWS_AS(file.write_rows("/x", 0, 1, values.data()), ResourceError);
  CHECK_THROWS_AS(file.close(), ResourceError);
  // And the library is usable for the next file.
  TempFolder folder;
  Hdf5File next = Hdf5File::create(folder / "b.h5");
  next.set_attribute("/", "a", "b");
  next.close();
  CHECK(Hdf5File::open(folder / "b.h5").text_attribute("/", "a") == "b");
}

TEST_CASE("h5py and pyBigWig read what we write", "[hdf5_file][bigwig]") {
  TempFolder folder;
  {
    Hdf5File file = Hdf5File::create(folder / "a.h5");
    file.set_attribute("/", "format", "chromamba é");
    file.set_attribute("/", "version", int64_t{-3});
    file.set_attribute("/", "half", 0.5);
    file.create_dataset("/embedding/chr1", 10, 4, FloatType::f16, 4);
    file.create_dataset("/log_likelihood/a%2Fb", 10, 0, FloatType::f32, 0);
    file.create_dataset("/log_likelihood/none", 0, 0, FloatType::f32, 0);
    std::vector<float> values(40);
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) * 0.1F;
    file.write_rows("/embedding/chr1", 0, 9, values.data());
    file.write_rows("/log_likelihood/a%2Fb", 1, 9, values.data());
    file.write_column("/regions/name", std::vector<std::string>{"chr1", "é", ""});
    file.write_column("/regions/start", std::vector<int64_t>{1, -2, int64_t{1} << 40});
    file.close();
  }
  {
    BigWigWriter writer(folder / "a.bw",
                        {{"chr2", 20'000}, {"chr10", 100}, {"z", 0}, {"chr1", 50}});
    std::vector<float> values(20'000);
    for (size_t i = 0; i < values.size(); ++i) values[i] = -static_cast<float>(i % 100);
    values[7] = kNaN;
    writer.add("chr2", 0, values.data(), 20'000);
    writer.add("chr10", 10, values.data(), 50);
    writer.add("chr1", 0, values.data(), 50);
    writer.close();
  }
  {
    BigWigWriter empty(folder / "empty.bw", {{"a", 100}});
    empty.close();
  }
  const std::string command = "/usr/bin/python3 " CHROMAMBA_CHECK_READERS " " + folder.path() +
                              " >" + (folder / "log") + " 2>&1";
  const int status = std::system(command.c_str());
  const std::string log = slurp(folder / "log");
  if (log.find("SKIPPED") != std::string::npos) WARN(log);
  INFO(log);
  CHECK(status == 0);
}

// Not run by default.
TEST_CASE("speed of HDF5 writing", "[.speed]") {
  TempFolder folder;
  const std::vector<float> values = random_values(size_t{65'536} * 256, 3);
  for (const FloatType type : {FloatType::f16, FloatType::f32}) {
    for (const int deflate : {0, 1}) {
      const auto start = std::chrono::steady_clock::now();
      Hdf5File file = Hdf5File::create(folder / "a.h5");
      file.create_dataset("/x", 4 * 65'536, 256, type, deflate);
      for (int64_t i = 0; i < 4; ++i) file.write_rows("/x", i * 65'536, 65'536, values.data());
      file.close();
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
      WARN((type == FloatType::f16 ? "f16" : "f32")
           << " deflate " << deflate << ": " << 4 * 65'536 / 1e6 / seconds.count()
           << " M rows of 256 a second");
    }
  }
}

}  // namespace
}  // namespace chromamba::io
