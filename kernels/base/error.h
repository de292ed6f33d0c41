// The four causes of failure. Every error names the file, record or tensor and the values it saw,
// on one line; only app/ prints them and turns them into exit codes (DESIGN: exit codes).
#pragma once

#include <stdexcept>
#include <string>

namespace chromamba {

// Base of all errors that chromamba raises on purpose.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The input is wrong: a file, a record, a checkpoint. Exit code 1.
class DataError : public Error {
 public:
  using Error::Error;
};

// The command line, or a call's arguments chosen by the user, are wrong. Exit code 2.
class UsageError : public Error {
 public:
  using Error::Error;
};

// Device, memory or disk failed us: out of memory, disk full, folder not writable. Exit code 3.
class ResourceError : public Error {
 public:
  using Error::Error;
};

// A broken promise inside chromamba: always a bug of ours. Exit code 4.
class InternalError : public Error {
 public:
  using Error::Error;
};

}  // namespace chromamba
